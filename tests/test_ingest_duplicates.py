"""Duplicates: the fast search gives what comparing all with all gives."""

import numpy as np
import pytest

from blip_jax.data.ingest.duplicates import (
    _blocks,
    cluster_representatives,
    find_duplicates,
    near_pairs,
)


def distances(looks):
    return np.bitwise_count(looks[:, None] ^ looks[None])


def planted(seed, count, near, spread=3):
    """Random hashes, many of them some bits away from another."""
    rng = np.random.default_rng(seed)
    looks = rng.integers(0, 2**64, count, np.uint64)
    for row in range(1, count):
        if rng.random() < 0.7:
            bits = rng.choice(64, rng.integers(1, near + spread), replace=False).astype(np.uint64)
            looks[row] = looks[rng.integers(row)] ^ np.bitwise_or.reduce(np.uint64(1) << bits)
    return looks


@pytest.mark.parametrize("near", [1, 2, 4, 8])
def test_all_pairs_are_found(near):
    looks = planted(near, 400, near)
    pairs = near_pairs(looks, np.arange(400), near)
    found = {(int(a), int(b)) for later, earlier in pairs for a, b in zip(later, earlier)}
    close = distances(looks) <= near
    wanted = {(int(a), int(b)) for a, b in np.argwhere(close) if a > b}
    assert found == wanted and len(wanted) > 50


@pytest.mark.parametrize("near", [0, 1, 4, 8])
def test_leaders_are_those_of_going_through_in_order(near):
    looks = np.unique(planted(10 + near, 500, near))
    looks = np.random.default_rng(0).permutation(looks)
    close, stays, wanted = distances(looks) <= near, [], []
    for row in range(len(looks)):
        first = next((other for other in stays if close[row, other]), row)
        wanted.append(first)
        stays += [row] * (first == row)
    assert cluster_representatives(looks, near).tolist() == wanted
    assert (len(stays) == len(looks)) == (near == 0)


def test_the_blocks_are_all_bits_and_grow_with_the_rows():
    for count in (10, 10**6, 10**8):
        masks = _blocks(count, 4)
        assert sum(masks) == 2**64 - 1 and len(masks) >= 5
    assert len(_blocks(10**8, 4)) > len(_blocks(1000, 4))


def test_marks():
    """Same bytes, same look, near looks, a chain of near looks, and what is alone."""
    rows = [
        (1, 0b0), (2, 0b1111), (1, 0b0), (3, 0b0), (4, 0b11111100), (2, 0b1111), (5, 2**40 - 1)
    ]  # fmt: skip
    content, look = (np.array(column, np.uint64) for column in zip(*rows))
    of, distance = find_duplicates(content, look, 4)
    assert of.tolist() == [-1, 0, 0, 0, -1, 1, -1]  # row 4 is near row 1, which does not stay
    assert distance.tolist() == [-1, 4, 0, 1, -1, 0, -1]
    of, distance = find_duplicates(content, look, 0)
    assert of.tolist() == [-1, -1, 0, 0, -1, 1, -1]
    of, distance = find_duplicates(content, look, -1)
    assert of.tolist() == [-1, -1, 0, -1, -1, 1, -1] and of.dtype == np.int64
    assert distance.tolist() == [-1, -1, 0, -1, -1, 0, -1] and distance.dtype == np.int8
    assert [len(part) for part in find_duplicates(content[:0], look[:0], 4)] == [0, 0]
