"""Marks images that were seen before: the same bytes, or nearly the same look.

Memory is about a hundred bytes a row, whatever the images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

BITS = 64  # of a perceptual hash


def mark(content: np.ndarray, look: np.ndarray, near: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row that each row is a duplicate of, and how far it is from it.

    Of images with the same bytes the first is the original. Among these, in order, an image is a
    near duplicate of the first that stays within `near` bits of its perceptual hash; else it stays
    itself. So no original is a duplicate of another, and none is more than `near` bits away.

    Args:
      content: uint64 [N], the first half of the bytes' SHA-256, or less; with `look` it decides
        which bytes are the same.
      look: uint64 [N], perceptual hashes.
      near: bits; below 0 only the same bytes are looked for.

    Returns:
      int64 [N], -1 for originals; int8 [N], 0 for the same bytes, 1 or more bits for near
      duplicates (1 also where the hashes are the same and the bytes are not), -1 for originals.
    """
    rows = _numbers(len(look))
    first = _first(rows, look, content)
    of = np.where(first < rows, first, -1).astype(np.int64)
    distance = np.where(first < rows, 0, -1).astype(np.int8)
    if near < 0 or not len(look):
        return of, distance
    single = rows[first == rows]  # one of each content
    same = _first(single, look[single])  # of each of them, the first that looks the same
    seen = single[same == single]  # one of each look, in order
    leader = seen[leaders(look[seen], near)]
    original = leader[np.searchsorted(seen, same)]
    found = original < single
    of[single[found]] = original[found]
    bits = np.bitwise_count(look[single] ^ look[original])
    distance[single[found]] = np.maximum(bits, 1)[found]
    return of, distance


def _first(rows: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The first of the rows that has the same keys, for each; rows are in order."""
    order = np.lexsort(keys)  # stable: rows of the same keys stay in order
    new = np.ones(len(order), bool)
    new[1:] = False
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    first = np.empty_like(rows)
    first[order] = np.repeat(rows[order[new]], np.diff(np.flatnonzero(np.append(new, True))))
    return first


def _numbers(count: int) -> np.ndarray:
    """0 to count - 1, in 4 bytes each as long as they fit."""
    return np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)


def leaders(looks: np.ndarray, near: int) -> np.ndarray:
    """For each hash the first that stays within `near` bits of it: int64 [N], itself if it stays.

    In order, a hash stays unless one that stays is near it. Done in rounds: a hash is settled as
    soon as all near it and before it are.

    Args:
      looks: uint64 [N], no two the same.
    """
    leader = _numbers(len(looks))
    if not near:
        return leader
    stays = np.zeros(len(looks), bool)
    open_ = np.ones(len(looks), bool)
    lonely = np.ones(len(looks), bool)
    while open_.any():
        gone, waits = np.zeros_like(open_), np.zeros_like(open_)
        for later, earlier in near_pairs(looks, leader[open_ | (stays & ~lonely)], near):
            lonely[later] = lonely[earlier] = False
            gone[later[stays[earlier]]] = True
            waits[later[open_[earlier]]] = True
        stays |= open_ & ~gone & ~waits
        open_ &= ~gone & waits
    for later, earlier in near_pairs(looks, leader[~lonely], near):
        good = stays[earlier] & ~stays[later]
        np.minimum.at(leader, later[good], earlier[good])
    return leader


def near_pairs(
    looks: np.ndarray, rows: np.ndarray, near: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all pairs (later, earlier) of rows within `near` bits, some several times.

    The bits are cut into near + m blocks: at least m of them are then the same in both. For every
    choice of m blocks, the rows are sorted by these bits, and those with the same compared.
    """
    blocks = _blocks(len(rows), near)
    for chosen in itertools.combinations(blocks, len(blocks) - near):
        keys = looks[rows] & np.bitwise_or.reduce(np.array(chosen, np.uint64))
        order = np.argsort(keys)
        keys, order = keys[order], rows[order]
        place = np.arange(len(order), dtype=rows.dtype)
        for shift in range(1, len(order)):
            place = place[place + shift < len(order)]
            place = place[keys[place] == keys[place + shift]]
            if not len(place):
                break
            one, other = order[place], order[place + shift]
            close = np.bitwise_count(looks[one] ^ looks[other]) <= near
            one, other = one[close], other[close]
            yield np.maximum(one, other), np.minimum(one, other)


def _blocks(count: int, near: int) -> list[int]:
    """Masks of the blocks that make the search among so many rows shortest."""

    def cost(m: int) -> float:
        sort = count * math.log2(count + 2)
        compare = count**2 / 2 ** (BITS * m / (near + m) + 1)
        return math.comb(near + m, m) * (sort + compare)

    total = near + min(range(1, 5), key=cost)
    edges = [BITS * i // total for i in range(total + 1)]
    return [(1 << stop) - (1 << start) for start, stop in itertools.pairwise(edges)]
