"""Marks images that were seen before: the same bytes, or nearly the same look.

Memory is about a hundred bytes a row, whatever the images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

BITS = 64  # of a perceptual hash


def find_duplicates(
    content_hash: np.ndarray, phash: np.ndarray, max_hamming_distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row that each row is a duplicate of, and how far it is from it.

    Of images with the same bytes the first is the original. Among these, in order, an image is a
    near duplicate of the first original within `max_hamming_distance` bits of its perceptual hash;
    if there is none, it is an original itself. So no original is a duplicate of another.

    Args:
      content_hash: uint64 [N], the first 8 bytes of the SHA-256 of an image's bytes; bytes are the
        same where both this and `phash` are.
      phash: uint64 [N], perceptual hashes.
      max_hamming_distance: bits; below 0 only the same bytes are duplicates.

    Returns:
      int64 [N], -1 for originals; int8 [N], 0 for the same bytes, 1 or more bits for near
      duplicates (1 also where the hashes are the same and the bytes are not), -1 for originals.
    """
    rows = _numbers(len(phash))
    first = _first(rows, phash, content_hash)
    of = np.where(first < rows, first, -1).astype(np.int64)
    distance = np.where(first < rows, 0, -1).astype(np.int8)
    if max_hamming_distance < 0 or not len(phash):
        return of, distance
    single = rows[first == rows]  # one of each content
    same = _first(single, phash[single])  # of each of them, the first that hashes the same
    seen = single[same == single]  # one of each phash, in order
    leader = seen[cluster_representatives(phash[seen], max_hamming_distance)]
    original = leader[np.searchsorted(seen, same)]
    found = original < single
    of[single[found]] = original[found]
    bits = np.bitwise_count(phash[single] ^ phash[original])
    distance[single[found]] = np.maximum(bits, 1)[found]
    return of, distance


def _first(rows: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Returns for each row the first row with the same keys; rows are in order."""
    order = np.lexsort(keys)  # stable: rows of the same keys stay in order
    new = np.ones(len(order), bool)
    new[1:] = False
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    first = np.empty_like(rows)
    first[order] = np.repeat(rows[order[new]], np.diff(np.flatnonzero(np.append(new, True))))
    return first


def _numbers(count: int) -> np.ndarray:
    """Returns 0 to count - 1, as int32 if they fit, else int64."""
    return np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)


def cluster_representatives(hashes: np.ndarray, max_hamming_distance: int) -> np.ndarray:
    """Returns the representative of each hash's cluster, int64 [N]: an index into `hashes`.

    In order, a hash is a representative unless an earlier one is within `max_hamming_distance`
    bits of it; the others belong to the first representative that is. Computed in rounds: a hash
    is decided as soon as all its neighbours before it are.

    Args:
      hashes: uint64 [N], no two the same.
    """
    leader = _numbers(len(hashes))
    if not max_hamming_distance:
        return leader
    is_representative = np.zeros(len(hashes), bool)
    open_ = np.ones(len(hashes), bool)
    has_no_neighbour = np.ones(len(hashes), bool)
    while open_.any():
        gone, waits = np.zeros_like(open_), np.zeros_like(open_)
        for later, earlier in near_pairs(
            hashes, leader[open_ | (is_representative & ~has_no_neighbour)], max_hamming_distance
        ):
            has_no_neighbour[later] = has_no_neighbour[earlier] = False
            gone[later[is_representative[earlier]]] = True
            waits[later[open_[earlier]]] = True
        is_representative |= open_ & ~gone & ~waits
        open_ &= ~gone & waits
    for later, earlier in near_pairs(hashes, leader[~has_no_neighbour], max_hamming_distance):
        good = is_representative[earlier] & ~is_representative[later]
        np.minimum.at(leader, later[good], earlier[good])
    return leader


def near_pairs(
    hashes: np.ndarray, rows: np.ndarray, max_hamming_distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all pairs (later, earlier) of rows within `max_hamming_distance` bits.

    A pair may come several times. The bits are divided into max_hamming_distance + m blocks, of
    which at least m are then equal in both. For every choice of m blocks the rows are sorted by
    these bits, and rows with equal bits are compared.
    """
    blocks = _blocks(len(rows), max_hamming_distance)
    for chosen in itertools.combinations(blocks, len(blocks) - max_hamming_distance):
        keys = hashes[rows] & np.bitwise_or.reduce(np.array(chosen, np.uint64))
        order = np.argsort(keys)
        keys, order = keys[order], rows[order]
        place = np.arange(len(order), dtype=rows.dtype)
        for shift in range(1, len(order)):
            place = place[place + shift < len(order)]
            place = place[keys[place] == keys[place + shift]]
            if not len(place):
                break
            one, other = order[place], order[place + shift]
            close = np.bitwise_count(hashes[one] ^ hashes[other]) <= max_hamming_distance
            one, other = one[close], other[close]
            yield np.maximum(one, other), np.minimum(one, other)


def _blocks(count: int, max_hamming_distance: int) -> list[int]:
    """Returns bit masks of the blocks with which the search among `count` rows is fastest."""

    def cost(m: int) -> float:
        sort = count * math.log2(count + 2)
        compare = count**2 / 2 ** (BITS * m / (max_hamming_distance + m) + 1)
        return math.comb(max_hamming_distance + m, m) * (sort + compare)

    total = max_hamming_distance + min(range(1, 5), key=cost)
    edges = [BITS * i // total for i in range(total + 1)]
    return [(1 << stop) - (1 << start) for start, stop in itertools.pairwise(edges)]
