"""Compares 64-bit hashes: equal ones, and pairs that differ in few bits."""

from __future__ import annotations

import array
import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

BITS = 64  # in a hash
ALL_BITS = np.uint64(2**BITS - 1)
COMPARE_COST = 4  # of two hashes, in steps of the sort; from the times of 1e7 and 3e7 rows


def first_equal(rows: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Returns for each row the first row with the same keys; rows are in order."""
    order = np.lexsort(keys)  # stable: rows of the same keys stay in order
    starts = np.ones(len(order), bool)  # whether the keys differ from the previous row's
    starts[1:] = False
    for key in keys:
        starts[1:] |= np.diff(key[order]) != 0
    first = np.empty_like(rows)
    first[order] = np.repeat(rows[order[starts]], np.diff(np.flatnonzero(np.append(starts, True))))
    return first


def near_pairs(
    hashes: np.ndarray, mask: np.uint64, max_hamming_distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the pairs of places, int64 [any] each, of hashes that are equal in `mask` and near.

    Args:
      hashes: uint64 [any].
    """
    keys = hashes & mask
    order = np.argsort(keys)
    keys = keys[order]
    position = np.arange(len(order))
    for shift in range(1, len(order)):
        position = position[position + shift < len(order)]
        position = position[keys[position] == keys[position + shift]]
        if not len(position):
            break
        one, other = order[position], order[position + shift]
        is_near = np.bitwise_count(hashes[one] ^ hashes[other]) <= max_hamming_distance
        yield one[is_near], other[is_near]


def originals(pairs: Iterable[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that are near duplicates, int64 [any], and the original of each.

    Args:
      pairs: int64 [any, 2], (later row, earlier row); later rows of a part come after all those of
        the part before.
      rows: their number.
    """
    is_duplicate = bytearray(rows)
    found, original = array.array("q"), array.array("q")
    for part in pairs:
        order = np.lexsort((part[:, 1], part[:, 0]))
        for later, earlier in part[order].tolist():
            # Whether the earlier row is a duplicate is known: its pairs come before this one.
            if not (is_duplicate[later] or is_duplicate[earlier]):
                is_duplicate[later] = True
                found.append(later)
                original.append(earlier)
    return np.frombuffer(found, np.int64), np.frombuffer(original, np.int64)


def bit_blocks(count: int, max_hamming_distance: int) -> list[int]:
    """Returns bit masks of the blocks with which the search among `count` rows is fastest.

    There are max_hamming_distance + m blocks, of which at least m are equal in both hashes of a
    near pair; each choice of m blocks is searched.
    """

    def cost(m: int) -> float:
        sort = count * math.log2(count + 2)
        compare = count**2 / 2 ** (BITS * m / (max_hamming_distance + m) + 1)
        return math.comb(max_hamming_distance + m, m) * (sort + COMPARE_COST * compare)

    total = max_hamming_distance + min(range(1, 5), key=cost)
    edges = [BITS * i // total for i in range(total + 1)]
    return [(1 << stop) - (1 << start) for start, stop in itertools.pairwise(edges)]
