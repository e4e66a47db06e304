"""ArrayRecord files in a bucket, read from copies on this machine.

ArrayRecord can only seek in files of a file system. A file is copied when one of its records is
first read. Copies stay as long as the disk has room, then the least recently used are removed:
training reads records in random order, so a dataset that does not fit is copied many times.
"""

import collections
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.core.data_sources import base

RESERVED_BYTES = 4 << 30  # of the disk of copies, which stay free


class RemoteDataSource(base.BaseDataSource):
    """A TFDS data source, as `builder.as_data_source` makes them, of a split in a bucket."""

    def __init__(self, builder: Any, split: str, decoders: dict):
        super().__init__(builder.info, split, decoders)
        self.data_source = RemoteRecordFiles(base.file_instructions(builder.info, split))


class RemoteRecordFiles:
    """Random access to the bytes of records in files of a bucket, by several threads.

    Args:
      instructions: TFDS's file instructions for a split: which records of which files, in order.
    """

    def __init__(self, instructions: Sequence[Any]):
        self._instructions = list(instructions)
        self._starts = np.cumsum([0, *(entry.take for entry in self._instructions)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = self._instructions[number].skip + row - int(self._starts[number])
        return _COPIES.read(os.fspath(self._instructions[number].filename), place)

    def __getitems__(self, rows: Sequence[int]) -> list[bytes]:
        return [self[row] for row in rows]


class _LocalCopies:
    """The copies of this process, of files of all datasets: they share a disk."""

    def __init__(self):
        self._copies: collections.OrderedDict[str, _LocalCopy] = collections.OrderedDict()
        self._lock = threading.Lock()  # of the order, the least recently used first

    def read(self, path: str, place: int) -> bytes:
        """Returns a record of a file of a bucket."""
        with self._lock:
            if path not in self._copies:
                self._copies[path] = _LocalCopy(path)
            copy = self._copies[path]
            self._copies.move_to_end(path)
        return copy.read(place, self._make_room)

    def _make_room(self, size: int) -> None:
        """Removes the least recently used copies, as far as `size` bytes more need their place."""
        with self._lock:
            for copy in self._copies.values():
                if shutil.disk_usage(tempfile.gettempdir()).free >= size + RESERVED_BYTES:
                    return
                copy.remove()


class _LocalCopy:
    """A file of a bucket, copied to this machine when one of its records is first read."""

    def __init__(self, path: str):
        self._path = epath.Path(path)
        self._lock = threading.Lock()  # held while it is copied, read or removed
        self._folder: tempfile.TemporaryDirectory | None = None
        self._records: ArrayRecordDataSource | None = None

    def read(self, place: int, make_room: Callable[[int], None]) -> bytes:
        """Returns a record; `make_room` is called with the bytes that a copy is about to take."""
        with self._lock:
            if self._records is None:
                make_room(self._size())
                self._folder = tempfile.TemporaryDirectory(prefix="blip-jax-")
                copy = epath.Path(self._folder.name) / self._path.name
                self._path.copy(copy)
                self._records = ArrayRecordDataSource([str(copy)])
            return self._records[place]

    def _size(self) -> int:
        return self._path.stat().length

    def remove(self) -> None:
        """Removes the copy if there is one that is not in use."""
        if self._lock.acquire(blocking=False):
            try:
                if self._folder is not None:
                    self._folder.cleanup()
                self._folder = self._records = None
            finally:
                self._lock.release()


_COPIES = _LocalCopies()
