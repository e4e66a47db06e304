"""Finds duplicate images: those with the same bytes, and those with nearly the same look.

Uses about a hundred bytes of memory per row, whatever the images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

BITS = 64  # in a perceptual hash


def find_duplicates(
    content_hash: np.ndarray, phash: np.ndarray, max_hamming_distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row that each row is a duplicate of, and their distance.

    The first of the images with the same bytes represents them. These first images are visited in
    order: an image is a near duplicate of the first original whose perceptual hash is within
    `max_hamming_distance` bits of its own; if there is none, it is an original itself. So no
    original is a duplicate of another.

    Args:
      content_hash: uint64 [N], the first 8 bytes of the SHA-256 of an image's bytes; bytes count
        as the same if both this and `phash` are.
      phash: uint64 [N], perceptual hashes.
      max_hamming_distance: bits; below 0 only the same bytes are duplicates.

    Returns:
      int64 [N]: the original's row, -1 for originals.
      int8 [N]: 0 for the same bytes, the differing bits for near duplicates (1 if only the hashes
        are the same), -1 for originals.
    """
    rows = _row_numbers(len(phash))
    first = _first(rows, phash, content_hash)
    duplicate_of = np.where(first < rows, first, -1).astype(np.int64)
    distance = np.where(first < rows, 0, -1).astype(np.int8)
    if max_hamming_distance < 0 or not len(phash):
        return duplicate_of, distance
    unique = rows[first == rows]  # one row for each content
    same_phash = _first(unique, phash[unique])  # for each of them, the first with the same phash
    unique_phash = unique[same_phash == unique]  # one row for each phash, in order
    clusters = cluster_representatives(phash[unique_phash], max_hamming_distance)
    original = unique_phash[clusters][np.searchsorted(unique_phash, same_phash)]
    is_duplicate = original < unique
    duplicate_of[unique[is_duplicate]] = original[is_duplicate]
    bits = np.bitwise_count(phash[unique] ^ phash[original])
    distance[unique[is_duplicate]] = np.maximum(bits, 1)[is_duplicate]
    return duplicate_of, distance


def _first(rows: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Returns for each row the first row with the same keys; rows are in order."""
    order = np.lexsort(keys)  # stable: rows of the same keys stay in order
    starts = np.ones(len(order), bool)  # whether the keys differ from the previous row's
    starts[1:] = False
    for key in keys:
        starts[1:] |= np.diff(key[order]) != 0
    first = np.empty_like(rows)
    first[order] = np.repeat(rows[order[starts]], np.diff(np.flatnonzero(np.append(starts, True))))
    return first


def _row_numbers(count: int) -> np.ndarray:
    """Returns 0 to count - 1, as int32 if they fit, else int64."""
    return np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)


def cluster_representatives(hashes: np.ndarray, max_hamming_distance: int) -> np.ndarray:
    """Returns the representative of each hash's cluster, int64 [N]: an index into `hashes`.

    In order, a hash is a representative unless an earlier representative is within
    `max_hamming_distance` bits of it; in that case it belongs to the first such representative.
    Computed in rounds: a hash is decided once all its earlier neighbours are decided.

    Args:
      hashes: uint64 [N], no two the same.
    """
    representative = _row_numbers(len(hashes))
    if not max_hamming_distance:
        return representative
    is_representative = np.zeros(len(hashes), bool)
    undecided = np.ones(len(hashes), bool)
    has_no_neighbour = np.ones(len(hashes), bool)
    while undecided.any():
        covered, waits = np.zeros_like(undecided), np.zeros_like(undecided)
        for later, earlier in near_pairs(
            hashes,
            representative[undecided | (is_representative & ~has_no_neighbour)],
            max_hamming_distance,
        ):
            has_no_neighbour[later] = has_no_neighbour[earlier] = False
            covered[later[is_representative[earlier]]] = True
            waits[later[undecided[earlier]]] = True
        is_representative |= undecided & ~covered & ~waits
        undecided &= ~covered & waits
    for later, earlier in near_pairs(
        hashes, representative[~has_no_neighbour], max_hamming_distance
    ):
        joins = is_representative[earlier] & ~is_representative[later]
        np.minimum.at(representative, later[joins], earlier[joins])
    return representative


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
        position = np.arange(len(order), dtype=rows.dtype)
        for shift in range(1, len(order)):
            position = position[position + shift < len(order)]
            position = position[keys[position] == keys[position + shift]]
            if not len(position):
                break
            one, other = order[position], order[position + shift]
            is_near = np.bitwise_count(hashes[one] ^ hashes[other]) <= max_hamming_distance
            one, other = one[is_near], other[is_near]
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
