"""Finds duplicate images: those with the same bytes, and those with nearly the same look.

The hashes are in files, and the search is divided into units of work (runtime/work_units.py): the
first finds equal hashes; each of the others takes some of the 64 bits and finds the pairs that are
near and equal in these bits. A unit holds PART_ROWS rows in memory, and as many more as have the
same hash; beside these, memory grows with the duplicates that are found, and by a byte a row. Its
temporary files (TMPDIR) take 24 bytes a row.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from etils import epath

from blip_jax.data.ingest.hashes import (
    ALL_BITS,
    bit_blocks,
    first_equal,
    near_pairs,
    originals,
)
from blip_jax.runtime.beam import UnitStopped, Work
from blip_jax.runtime.files import atomic_path

PART_ROWS = 1 << 21  # rows of which a unit compares all that are equal in its bits, about 100 MiB
HASHED_ROW = np.dtype([("row", np.int64), ("phash", np.uint64), ("content_hash", np.uint64)])
_HASHES, _LOOKS, _EQUAL = "hashes.bin", "looks.bin", "equal.npz"
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # spreads bits over the upper ones (Fibonacci hashing)


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """The rows that are duplicates of another.

    Attributes:
      row: int64 [D], increasing.
      original: int64 [D], the row that each is a duplicate of.
      distance: int8 [D], 0 for the same bytes, the differing bits for near duplicates (1 if only
        the hashes are the same).
    """

    row: np.ndarray
    original: np.ndarray
    distance: np.ndarray

    def columns(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `original`, int64, and `distance`, int8, of the rows in a range; -1: original."""
        first, last = np.searchsorted(self.row, [start, stop])
        original, distance = np.full(stop - start, -1, np.int64), np.full(stop - start, -1, np.int8)
        own = self.row[first:last] - start
        original[own], distance[own] = self.original[first:last], self.distance[first:last]
        return original, distance


@dataclasses.dataclass(frozen=True)
class DuplicateSearch:
    """A search among the rows whose hashes `write_hashes` has written into `folder`.

    The first of the images with the same bytes represents them. These first images are visited in
    order: an image is a near duplicate of the first original whose perceptual hash is within
    `max_hamming_distance` bits of its own; if there is none, it is an original itself. So no
    original is a duplicate of another.

    Attributes:
      folder: of the files; all workers must see it.
      max_hamming_distance: bits; below 0 only the same bytes are duplicates.
    """

    folder: str
    max_hamming_distance: int

    def write_hashes(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
        """Writes the hashes of all rows, unless they are there, and returns the number of rows.

        Args:
          batches: (uint64 [any], the first 8 bytes of the SHA-256 of each image's bytes, which
            count as the same if both hashes are; uint64 [any], perceptual hashes).
        """
        path = self._path(_HASHES)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                row = 0
                for content_hash, phash in batches:
                    records = np.empty(len(phash), HASHED_ROW)
                    records["row"] = np.arange(row, row + len(phash))
                    records["phash"], records["content_hash"] = phash, content_hash
                    records.tofile(file)
                    row += len(phash)
        return path.stat().length // HASHED_ROW.itemsize

    @property
    def near_units(self) -> range:
        """The numbers of the units that follow unit 0, once this one is finished."""
        if self.max_hamming_distance < 1:
            return range(0)
        blocks = bit_blocks(self._rows(_LOOKS), self.max_hamming_distance)
        chosen = len(blocks) - self.max_hamming_distance
        return range(1, 1 + math.comb(len(blocks), chosen))

    def finished(self) -> set[int]:
        """Returns the numbers of the units that are finished."""
        pairs = epath.Path(self.folder).glob("pairs-*.npy")
        return {int(path.stem.split("-")[1]) for path in pairs} | (
            {0} if self._path(_EQUAL).exists() else set()
        )

    def make_work(self) -> Work:
        """Returns what a worker does with the number of a unit."""
        return self.process_unit

    def process_unit(self, number: int, should_continue: Callable[[], bool]) -> None:
        """Processes unit 0, which must be finished before the others, or one of `near_units`.

        Raises:
          UnitStopped: `should_continue` returned False; nothing is written.
        """
        if number:
            self._find_near_pairs(number, should_continue)
        else:
            self._find_equal(should_continue)

    def _find_equal(self, should_continue: Callable[[], bool]) -> None:
        """Writes the rows with equal hashes, and the first row of each perceptual hash."""
        exact, same_look = [], []
        with atomic_path(self._path(_LOOKS)) as temporary, open(temporary, "wb") as looks:
            for part in _parts(self._hashes(_HASHES), ALL_BITS, should_continue):
                rows, phash = part["row"], part["phash"]
                first = first_equal(rows, phash, part["content_hash"])
                is_first = first == rows
                exact.append(np.stack([rows, first], axis=1)[~is_first])
                rows, part = rows[is_first], part[is_first]
                first = first_equal(rows, part["phash"])
                is_first = first == rows
                same_look.append(np.stack([rows, first], axis=1)[~is_first])
                part[is_first].tofile(looks)
        with atomic_path(self._path(_EQUAL)) as temporary, open(temporary, "wb") as file:
            np.savez(file, exact=_joined(exact), same_look=_joined(same_look))

    def _find_near_pairs(self, number: int, should_continue: Callable[[], bool]) -> None:
        """Writes the near pairs of a choice of blocks: (later row, earlier row), in order."""
        looks = self._hashes(_LOOKS)
        blocks = bit_blocks(len(looks), self.max_hamming_distance)
        choices = itertools.combinations(
            range(len(blocks)), len(blocks) - self.max_hamming_distance
        )
        chosen = next(itertools.islice(choices, number - 1, None))
        mask = np.uint64(sum(blocks[i] for i in chosen))
        # A pair that is equal in other blocks too is found by the first choice of such blocks.
        earlier_blocks = [blocks[i] for i in range(chosen[-1]) if i not in chosen]
        pairs = []
        for part in _parts(looks, mask, should_continue):
            for one, other in near_pairs(part["phash"], mask, self.max_hamming_distance):
                differing = part["phash"][one] ^ part["phash"][other]
                for block in earlier_blocks:
                    is_own = (differing & np.uint64(block)) != 0
                    one, other, differing = one[is_own], other[is_own], differing[is_own]
                rows = np.stack([part["row"][one], part["row"][other]], axis=1)
                pairs.append(np.sort(rows, axis=1)[:, ::-1])
        with atomic_path(self._path(f"pairs-{number:04d}.npy")) as temporary:
            with open(temporary, "wb") as file:
                found = _joined(pairs)
                np.save(file, found[np.argsort(found[:, 0])])

    def result(self) -> Duplicates:
        """Returns the duplicates, when all units are finished."""
        rows, original = originals(self._near_pairs(), self._rows(_HASHES))
        with self._path(_EQUAL).open("rb") as file, np.load(file) as equal:
            exact, same_look = equal["exact"], equal["same_look"]
        if self.max_hamming_distance < 0:
            same_look = same_look[:0]
        first = same_look[:, 1]  # of the same look; it may be a near duplicate itself
        place = np.searchsorted(rows, first)
        known = np.append(rows, -1)[place] == first
        near_rows = np.concatenate([rows, same_look[:, 0]])
        near_of = np.concatenate([original, np.where(known, np.append(original, -1)[place], first)])
        hashes = self._hashes(_HASHES)["phash"]
        bits = np.bitwise_count(hashes[near_rows] ^ hashes[near_of])
        row = np.concatenate([near_rows, exact[:, 0]])
        order = np.argsort(row)
        distance = np.concatenate([np.maximum(bits, 1), np.zeros(len(exact))]).astype(np.int8)
        return Duplicates(
            row[order], np.concatenate([near_of, exact[:, 1]])[order], distance[order]
        )

    def _near_pairs(self) -> Iterator[np.ndarray]:
        """Yields all near pairs, int64 [any, 2]: those whose later row is in one range together."""
        paths = [self._path(f"pairs-{number:04d}.npy") for number in self.near_units]
        files = [np.load(path, mmap_mode="r") for path in paths]
        for start in range(0, self._rows(_HASHES), PART_ROWS):
            parts = []
            for pairs in files:
                first, last = np.searchsorted(pairs[:, 0], [start, start + PART_ROWS])
                parts.append(pairs[first:last])
            yield _joined(parts)

    def _path(self, name: str) -> epath.Path:
        return epath.Path(self.folder) / name

    def _rows(self, name: str) -> int:
        return self._path(name).stat().length // HASHED_ROW.itemsize

    def _hashes(self, name: str) -> np.ndarray:
        """Returns the records of a file, HASHED_ROW [any], which stay on disk."""
        if not self._rows(name):
            return np.empty(0, HASHED_ROW)
        return np.memmap(self._path(name), HASHED_ROW, "r")


def _parts(
    records: np.ndarray, mask: np.uint64, should_continue: Callable[[], bool]
) -> Iterator[np.ndarray]:
    """Yields the records, HASHED_ROW [any], in parts: those that are equal in `mask` together.

    Within a part they keep their order. They are divided through files, as in an external sort.

    Raises:
      UnitStopped: `should_continue` returned False.
    """
    count = -(-len(records) // PART_ROWS)
    if count < 2:
        yield np.array(records)
        return
    with tempfile.TemporaryDirectory(prefix="blip-jax-") as folder:
        paths = [os.path.join(folder, str(part)) for part in range(count)]
        for start in range(0, len(records), PART_ROWS):
            chunk = np.array(records[start : start + PART_ROWS])
            mixed = (chunk["phash"] & mask) * _MIXER >> np.uint64(32)
            part = (mixed * np.uint64(count) >> np.uint64(32)).astype(np.int64)
            order = np.argsort(part, kind="stable")
            edges = np.searchsorted(part[order], np.arange(count + 1))
            for path, (first, last) in zip(paths, itertools.pairwise(edges)):
                with open(path, "ab") as file:
                    chunk[order[first:last]].tofile(file)
            if not should_continue():
                raise UnitStopped
        del chunk, mixed, part, order
        for path in paths:
            yield np.fromfile(path, HASHED_ROW)
            os.unlink(path)
            if not should_continue():
                raise UnitStopped


def _joined(pairs: list[np.ndarray]) -> np.ndarray:
    """Returns int64 arrays [any, 2] as one."""
    return np.concatenate([np.empty((0, 2), np.int64), *pairs])
