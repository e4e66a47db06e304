"""Parquet files: img2dataset's, Hugging Face's, or tables of paths and texts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.json_lines import chunk_offsets
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
    columns = FieldMapping(settings)
    with _opened(path) as table:
        columns.check(table.schema_arrow.names, path)
        paths = ((0, path) for path in _picture_paths(table, columns))
        yield from chunk_offsets(paths, settings.records_per_unit, _is_same)


def _is_same(before: bytes | None, after: bytes | None) -> bool:
    return bool(after) and before == after


def _picture_paths(table, columns: FieldMapping) -> Iterator[bytes | None]:
    """Yields the path of each row's image or clip; None where the file holds these themselves."""
    schema = table.schema_arrow
    _, name = columns.find_picture(schema.names)
    kind = schema.field(name).type if name else pyarrow.null()
    if pyarrow.types.is_struct(kind):  # Hugging Face's; it has paths alone if no bytes
        fields = {kind.field(number).name for number in range(kind.num_fields)}
        name = f"{name}.path" if "path" in fields and _is_empty(table, f"{name}.bytes") else ""
    elif not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        name = ""
    if not name:
        yield from itertools.repeat(None, table.metadata.num_rows)
        return
    for batch in table.iter_batches(columns=[name], use_threads=False):
        column = batch.column(0)
        values = column.field("path") if pyarrow.types.is_struct(column.type) else column
        yield from values.cast(pyarrow.large_binary()).to_pylist()  # may not be UTF-8


def _is_empty(table, path: str) -> bool:
    """Returns whether a column has no values, by the file's statistics."""
    for group in range(table.num_row_groups):
        row_group = table.metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if column.path_in_schema == path:
                if not column.statistics or column.statistics.null_count != row_group.num_rows:
                    return False
    return True


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with _opened(unit.path) as table:
        for number, row, records in _rows(table, unit.first, unit.first + unit.records):
            name = f"{number:09d}"
            if isinstance(row, RejectedRecord):
                yield RawRecord(name, rejection=row, records=records)
            else:
                yield columns.record(row, name)


def _rows(table, start: int, stop: int) -> Iterator[tuple[int, dict | RejectedRecord, int]]:
    """Yields (number, row, 1) from `start` to before `stop`; rejects rows that are not UTF-8.

    Rows that cannot be decoded are one rejection with their count in place of the 1.
    """
    number = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if number + rows <= start or number >= stop:
            number += rows
            continue
        end = number + rows
        batches = table.iter_batches(BATCH, row_groups=[group], use_threads=False)
        while number < min(end, stop):
            try:
                batch = next(batches, None)
                if batch is None:
                    raise pyarrow.ArrowInvalid("the row group has fewer rows than it says")
            except (pyarrow.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # of the disk or the network
                    raise
                first, last = max(start, number), min(end, stop) - 1
                yield first, _damaged(first, last, error), last - first + 1
                number = end
                break
            for place in range(max(0, start - number), min(batch.num_rows, stop - number)):
                try:
                    yield number + place, batch.slice(place, 1).to_pylist()[0], 1
                except UnicodeDecodeError as error:
                    yield number + place, RejectedRecord("text not UTF-8", str(error)), 1
                except (ValueError, OverflowError, pyarrow.ArrowException):
                    yield number + place, _row(batch, place), 1
            number += batch.num_rows


def _damaged(first: int, last: int, error: Exception) -> RejectedRecord:
    """Returns the rejection of rows that cannot be decoded; the next row group may be whole."""
    reason = " ".join(str(error).split())[:200]
    return RejectedRecord("broken Parquet", f"rows {first} to {last}: {reason}")


def _row(batch: pyarrow.RecordBatch, place: int) -> dict[str, Any]:
    """Returns a row that has values without a counterpart in Python, such as nanoseconds."""
    return {name: _value(batch.column(name)[place]) for name in batch.schema.names}


def _value(scalar: pyarrow.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pyarrow.ArrowException):
        pass
    try:
        return scalar.cast(pyarrow.string()).as_py()
    except (ValueError, OverflowError, pyarrow.ArrowException):
        return f"unreadable {scalar.type}"
