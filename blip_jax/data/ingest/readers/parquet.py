"""Parquet files: img2dataset's, Hugging Face's, or tables of paths and texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet
from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.records import FieldMapping, RawRecord, RejectedRecord
from blip_jax.runtime.errors import UserError

BATCH = 16  # rows decoded at once; they may contain images


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    with epath.Path(path).open("rb") as file:
        try:
            # Reads page by page, since a row group with images may have gigabytes.
            yield pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path} cannot be read: {error}".splitlines()[0]) from error


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the units of a file: (0, number of the first row, number of rows).

    Raises:
      UserError: the file is damaged, or has no column of images or texts.
    """
    with _opened(path) as table:
        FieldMapping(settings).check(table.schema_arrow.names, path)
        total = table.metadata.num_rows
    for first in range(0, total, settings.records_per_unit):
        yield 0, first, min(settings.records_per_unit, total - first)


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with _opened(unit.path) as table:
        for number, row in _rows(table, unit.first, unit.first + unit.records):
            name = f"{number:09d}"
            yield (
                RawRecord(name, rejection=row)
                if isinstance(row, RejectedRecord)
                else columns.record(row, name)
            )


def _rows(table, start: int, stop: int) -> Iterator[tuple[int, dict | RejectedRecord]]:
    """Yields (number, row) from `start` to before `stop`; rejects rows that are not UTF-8."""
    number = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if number + rows <= start or number >= stop:
            number += rows
            continue
        for batch in table.iter_batches(BATCH, row_groups=[group], use_threads=False):
            for place in range(max(0, start - number), min(batch.num_rows, stop - number)):
                try:
                    yield number + place, batch.slice(place, 1).to_pylist()[0]
                except UnicodeDecodeError as error:
                    yield number + place, RejectedRecord("text not UTF-8", str(error))
            number += batch.num_rows
            if number >= stop:
                break
