"""Duplicates: the search by units finds what a comparison of all with all finds."""

from contextlib import nullcontext

import numpy as np
import pytest

from blip_jax.data.ingest import duplicates
from blip_jax.data.ingest.duplicates import DuplicateSearch
from blip_jax.data.ingest.hashes import ALL_BITS, bit_blocks, near_pairs
from blip_jax.runtime.beam import UnitStopped


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


def find(folder, content, looks, near, batch=150):
    """The two columns of all rows, found unit by unit."""
    search = DuplicateSearch(str(folder / f"search-{near}"), near)
    starts = range(0, len(looks), batch)
    batches = [(content[start : start + batch], looks[start : start + batch]) for start in starts]
    assert search.write_hashes(batches) == len(looks)
    process(search, 0)
    for number in search.near_units:
        process(search, number)
    return search.result().columns(0, len(looks))


def process(search, number):
    """Processes a unit, which is stopped before if it has several parts."""
    assert number not in search.finished()
    records = search._hashes("looks.bin" if number else "hashes.bin")
    several = len(records) > duplicates.PART_ROWS
    with pytest.raises(UnitStopped) if several else nullcontext():
        search.process_unit(number, lambda: not several)
    assert (number in search.finished()) != several
    search.process_unit(number, lambda: True)
    assert number in search.finished()


def visited_in_order(content, looks, near):
    """What `find` must return, by the definition."""
    of, distance = np.full(len(looks), -1), np.full(len(looks), -1)
    firsts, originals = {}, []
    for row, identity in enumerate(zip(content.tolist(), looks.tolist())):
        if (first := firsts.setdefault(identity, row)) < row:
            of[row], distance[row] = first, 0
            continue
        bits = np.bitwise_count(looks[originals] ^ looks[row])
        if near >= 0 and (close := np.flatnonzero(bits <= near)).size:
            of[row], distance[row] = originals[close[0]], max(int(bits[close[0]]), 1)
        else:
            originals.append(row)
    return of.tolist(), distance.tolist()


@pytest.mark.parametrize("part_rows", [1 << 21, 70])
@pytest.mark.parametrize("near", [-1, 0, 1, 4, 8])
def test_the_search_is_that_of_visiting_in_order(tmp_path, monkeypatch, near, part_rows):
    monkeypatch.setattr(duplicates, "PART_ROWS", part_rows)
    rng = np.random.default_rng(near + 1)
    looks = planted(10 + near, 500, max(near, 1))
    looks[rng.integers(500, size=40)] = looks[rng.integers(500, size=40)]
    content = rng.integers(0, 2, 500).astype(np.uint64)
    of, distance = find(tmp_path, content, looks, near)
    assert (of.tolist(), distance.tolist()) == visited_in_order(content, looks, near)
    assert (distance == 0).sum() > 5 and ((distance > 0).sum() > 10) == (near >= 0)


@pytest.mark.parametrize("near", [1, 2, 4, 8])
def test_every_pair_is_found_once(tmp_path, near):
    looks = planted(near, 400, near)
    search = DuplicateSearch(str(tmp_path), near)
    search.write_hashes([(looks, looks)])
    search.process_unit(0, lambda: True)
    for number in search.near_units:
        search.process_unit(number, lambda: True)
    found = [tuple(pair) for part in search._near_pairs() for pair in part.tolist()]
    unique = np.unique(looks, return_index=True)[1]
    close = distances(looks) <= near
    wanted = [(a, b) for a, b in np.argwhere(close) if a > b and a in unique and b in unique]
    assert sorted(found) == sorted(wanted) and len(wanted) > 50


def test_pairs_are_equal_in_the_mask():
    looks = planted(3, 300, 4)
    mask = np.uint64(bit_blocks(300, 4)[0])
    found = {tuple(sorted(x)) for pair in near_pairs(looks, mask, 4) for x in zip(*pair)}
    wanted = (distances(looks) <= 4) & (distances(looks & mask) == 0)
    assert found == {(a, b) for a, b in np.argwhere(wanted) if a < b} and found


def test_the_blocks_are_all_bits_and_grow_with_the_rows():
    for count in (10, 10**6, 10**8):
        masks = bit_blocks(count, 4)
        assert sum(masks) == ALL_BITS and len(masks) >= 5
    assert len(bit_blocks(10**8, 4)) > len(bit_blocks(1000, 4))


def test_marks(tmp_path):
    """Same bytes, same look, near looks, a chain of near looks, and what is alone."""
    rows = [
        (1, 0b0), (2, 0b1111), (1, 0b0), (3, 0b0), (4, 0b11111100), (2, 0b1111), (5, 2**40 - 1)
    ]  # fmt: skip
    content, look = (np.array(column, np.uint64) for column in zip(*rows))
    of, distance = find(tmp_path, content, look, 4)
    assert of.tolist() == [-1, 0, 0, 0, -1, 1, -1]  # row 4 is near row 1, which is a duplicate
    assert distance.tolist() == [-1, 4, 0, 1, -1, 0, -1]
    of, distance = find(tmp_path, content, look, 0)
    assert of.tolist() == [-1, -1, 0, 0, -1, 1, -1]
    of, distance = find(tmp_path, content, look, -1)
    assert of.tolist() == [-1, -1, 0, -1, -1, 1, -1] and of.dtype == np.int64
    assert distance.tolist() == [-1, -1, 0, -1, -1, 0, -1] and distance.dtype == np.int8
