"""ArrayRecord files in a bucket, read from copies on this machine.

ArrayRecord can only seek in files of a file system. A file is copied when one of its records is
first read, and the least recently used copies are removed.
"""

import collections
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.core.data_sources import base

MAX_OPEN_FILES = 8  # copies made in parallel


class RemoteDataSource(base.BaseDataSource):
    """A TFDS data source, as `builder.as_data_source` makes them, of a split in a bucket."""

    def __init__(self, builder: Any, split: str, decoders: dict):
        super().__init__(builder.info, split, decoders)
        self.data_source = RemoteRecordFiles(base.file_instructions(builder.info, split))


class RemoteRecordFiles:
    """Random access to the bytes of records in files of a bucket.

    Args:
      instructions: TFDS's file instructions for a split: which records of which files, in order.
    """

    def __init__(self, instructions: Sequence[Any]):
        self._instructions = list(instructions)
        self._starts = np.cumsum([0, *(entry.take for entry in self._instructions)])
        self._open: collections.OrderedDict[int, tuple] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            records = self._records(number)
            return records[self._instructions[number].skip + row - int(self._starts[number])]

    def __getitems__(self, rows: Sequence[int]) -> list[bytes]:
        return [self[row] for row in rows]

    def _records(self, number: int) -> ArrayRecordDataSource:
        """Returns the records of a file's copy; removes the oldest copies."""
        if number not in self._open:
            file = epath.Path(self._instructions[number].filename)
            folder = tempfile.TemporaryDirectory(prefix="blip-jax-")
            copy = epath.Path(folder.name) / file.name
            file.copy(copy)
            self._open[number] = ArrayRecordDataSource([str(copy)]), folder
        self._open.move_to_end(number)
        while len(self._open) > MAX_OPEN_FILES:
            _, (_, folder) = self._open.popitem(last=False)
            folder.cleanup()
        return self._open[number][0]
