"""CSV and TSV: a header line with the fields' names, then a row for each record.

Fields of a CSV may be quoted and then contain line ends; those of a TSV are read literally, since
the lists of Conceptual Captions contain unpaired quotes.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import open_buffered
from blip_jax.data.ingest.readers.json_lines import chunk_offsets
from blip_jax.data.ingest.records import FieldMapping, RawRecord, RejectedRecord
from blip_jax.runtime.errors import UserError

LONGEST = 1 << 20  # most characters of a field, which limits a quote that is never closed


class _Rows:
    """The rows of a file from byte `offset` on; `offset` becomes that of the next row."""

    def __init__(self, file, delimiter: str, offset: int):
        self.offset = offset
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        self._rows = csv.reader(self._lines(file), delimiter=delimiter, quoting=quoting)
        csv.field_size_limit(LONGEST)

    def _lines(self, file) -> Iterator[str]:
        file.seek(self.offset)
        for line in file:
            self.offset += len(line)
            yield line.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[list[str] | RejectedRecord]:
        while True:
            try:
                row = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                row = RejectedRecord("broken row", str(error))
            if row:
                yield row

    def row_offsets(self) -> Iterator[int]:
        """Yields the offset of each row (or of blank lines before it)."""
        start = self.offset
        for _ in self:
            yield start
            start = self.offset


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the units of a file: byte offset, number of the first record, number of records.

    Raises:
      UserError: the header has no image or text.
    """
    with open_buffered(path) as file:
        names, delimiter, start = _header(file, path, settings)
        FieldMapping(settings).check(names, path)
        yield from chunk_offsets(
            _Rows(file, delimiter, start).row_offsets(), settings.records_per_unit
        )


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with open_buffered(unit.path) as file:
        names, delimiter, _ = _header(file, unit.path, settings)
        rows = itertools.islice(_Rows(file, delimiter, unit.start), unit.records)
        for number, row in enumerate(rows, unit.first):
            name = f"{number:09d}"
            if isinstance(row, RejectedRecord):
                yield RawRecord(name, rejection=row)
            elif len(row) != len(names):
                found = f"{len(row)} fields, expected {len(names)}"
                yield RawRecord(name, rejection=RejectedRecord("broken row", found))
            else:
                yield columns.record(dict(zip(names, row)), name)


def _header(file, path: str, settings: IngestConfig) -> tuple[list[str], str, int]:
    """Returns (fields' names, delimiter, offset of the first record)."""
    line = file.readline(LONGEST).removeprefix(b"\xef\xbb\xbf")
    delimiter = "\t" if path.endswith(".tsv") else max(",;\t|", key=line.decode("latin-1").count)
    if settings.header:
        return settings.header.split(","), delimiter, 0
    rows = _Rows(file, delimiter, 0)
    names = next(iter(rows), [])
    if isinstance(names, RejectedRecord):
        raise UserError(f"{path} does not start with the names of its fields: {names.detail}")
    names = [name.lstrip("\ufeff").strip() for name in names]
    if len(set(names)) != len(names):
        raise UserError(f"{path} has two fields of the same name ({', '.join(names)}); rename one")
    return names, delimiter, rows.offset
