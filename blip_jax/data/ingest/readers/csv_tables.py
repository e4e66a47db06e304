"""CSV and TSV: a header line with the fields' names, then a row for each record.

Fields of a CSV may be quoted and then contain line ends. Those of a TSV are read literally, since
the lists of Conceptual Captions contain unpaired quotes, unless the header is quoted, too.
"""

from __future__ import annotations

import collections
import csv
import itertools
import re
from collections.abc import Iterator

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import open_buffered
from blip_jax.data.ingest.readers.json_lines import Place, chunk_places
from blip_jax.data.ingest.records import (
    FieldMapping,
    RawRecord,
    RejectedRecord,
    clean,
    is_same_image,
)
from blip_jax.data.ingest.text import UTF8_BOM, check_utf8
from blip_jax.runtime.errors import UserError

LONGEST = 1 << 20  # most characters of a field, which limits a quote that is never closed
MISSING = {"NaN", "nan", "NULL", "null", "\\N"}  # what programs write for no value
PADDED = re.compile(r'"[ \t]+(?=[,;|]|\r?\n|$)')  # blanks after a closing quote, which are read
SHOWN = 80  # characters of a broken line in its message
# A field that a program has quoted, as the doubled quotes within show.
QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"', re.DOTALL)


class _Rows:
    """The rows of a file from a place on; `offset` and `line` become those of the next row.

    A quoted field must be quoted as a program would have done, with quotes in it doubled: of other
    fields Python's reader drops quotes, or joins lines. Such a row is broken, and of one that
    extends over several lines the next is read anew.

    Args:
      dialect: (delimiter, csv.QUOTE_MINIMAL or csv.QUOTE_NONE).
      width: number of fields of a row; 0: any.
    """

    def __init__(self, file, dialect: tuple[str, int], start: Place, width: int = 0):
        self.offset, self.line = start
        self._width = width
        self._file = file
        self._format = {"delimiter": dialect[0], "quoting": dialect[1]}
        self._used: list[bytes] = []  # the lines of the row
        self._again: collections.deque[bytes] = collections.deque()  # lines to read anew
        file.seek(start.byte)
        self._rows = self._reader()
        csv.field_size_limit(LONGEST)

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(iter(self._next_line, None), **self._format)

    def _next_line(self) -> str | None:
        line = self._again.popleft() if self._again else self._file.readline()
        if not line:
            return None
        self.offset += len(line)
        self.line += 1
        self._used.append(line)
        return line.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[list[str] | RejectedRecord]:
        while True:
            self._used.clear()
            try:
                row = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                row = RejectedRecord("broken row", f"line {self.place().line}: {error}")
            if len(self._used) > 1 and not self._is_quoted(row):
                row = self._split("a quote is never closed")
            elif isinstance(row, list) and b'"' in self._used[0] and not self._is_strict():
                row = self._split("a quote is not closed, or not doubled")
            if row:
                yield row

    def _is_quoted(self, row: list[str] | RejectedRecord) -> bool:
        """Returns whether a row of several lines is a whole one."""
        if isinstance(row, RejectedRecord) or (self._width and len(row) != self._width):
            return False
        return self._is_strict()

    def _is_strict(self) -> bool:
        """Returns whether the lines of a row are one row by the rules of quoting."""
        used = (PADDED.sub('"', line.decode("utf-8", "surrogateescape")) for line in self._used)
        try:
            return len(list(csv.reader(used, strict=True, **self._format))) == 1
        except csv.Error:  # it ends within the quote, or text follows the quote
            return False

    def _split(self, problem: str) -> RejectedRecord:
        """Returns the rejection of the row's first line; the other lines will be read anew."""
        first, *others = self._used
        self._used = [first]
        self.offset -= sum(map(len, others))
        self.line -= len(others)
        self._again.extendleft(reversed(others))
        self._rows = self._reader()  # the old one may have come to its end
        shown = clean(first.decode("utf-8", "surrogateescape")).strip()[:SHOWN]
        byte, line = self.place()
        where = f"line {line} (byte {byte})"
        return RejectedRecord("broken row", f"{where}: {problem}: {shown}")

    def place(self) -> Place:
        """Returns where the latest row starts."""
        return Place(self.offset - sum(map(len, self._used)), self.line - len(self._used))

    def places(self) -> Iterator[tuple[Place, list[str] | RejectedRecord]]:
        """Yields where each row starts, and the row."""
        for row in self:
            yield self.place(), row


class _Table:
    """A file's dialect, the names of its fields and the offset of its first record."""

    def __init__(self, file, path: str, settings: IngestConfig):
        self._file = file
        line = file.readline(LONGEST)
        check_utf8(line, path)
        self.start = Place(len(UTF8_BOM) if line.startswith(UTF8_BOM) else 0, 1)
        line = line[self.start.byte :].rstrip(b"\r\n")
        if b"\r" in line:
            raise UserError(f"{path} ends its lines with CR alone; save it with LF line ends")
        tabs = path.lower().endswith(".tsv")
        delimiter = "\t" if tabs else max(",;\t|", key=line.decode("latin-1").count)
        fields = line.split(b"\t")
        quoted = all(len(name) > 1 and name[:1] == name[-1:] == b'"' for name in fields)
        self._literal = delimiter == "\t" and not quoted
        self._dialect = delimiter, csv.QUOTE_NONE if self._literal else csv.QUOTE_MINIMAL
        if settings.header:
            names = settings.header.split(",")
        else:
            rows = _Rows(file, self._dialect, self.start)
            names = next(iter(rows), [])
            self.start = Place(rows.offset, rows.line)
        if isinstance(names, RejectedRecord):
            raise UserError(
                f"{path} does not start with the names of its fields: {names.detail}; fix its "
                "first line or give --config.header=NAMES"
            )
        self.names = [name.strip() for name in names]
        if len(set(self.names)) != len(self.names):
            found = ", ".join(self.names)
            raise UserError(f"{path} has two fields of the same name ({found}); rename one")

    def rows(self, start: Place) -> _Rows:
        """Returns the rows from a place on."""
        return _Rows(self._file, self._dialect, start, len(self.names))

    def record(
        self, row: list[str] | RejectedRecord, name: str, columns: FieldMapping, line: int = 0
    ) -> RawRecord:
        """Returns the record of a row, which starts in this line."""
        if isinstance(row, RejectedRecord):
            return RawRecord(name, rejection=row)
        if len(row) != len(self.names):
            found = f"line {line}: {len(row)} fields, expected {len(self.names)}"
            return RawRecord(name, rejection=RejectedRecord("broken row", found))
        if self._literal:
            row = [_unquoted(field) if field[:1] == '"' else field for field in row]
        row = [None if field in MISSING else field for field in row]
        return columns.record(dict(zip(self.names, row)), name)


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if QUOTED.fullmatch(field) else field


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int, int]]:
    """Yields the units of a file: byte, number of the first record, number of records, line.

    Raises:
      UserError: the header has no image or text.
    """
    columns = FieldMapping(settings)
    with open_buffered(path) as file:
        table = _Table(file, path, settings)
        columns.check(table.names, path)

        def same_image(before, after) -> bool:
            return is_same_image(
                table.record(before, "", columns), table.record(after, "", columns)
            )

        found = table.rows(table.start).places()
        yield from chunk_places(found, settings.records_per_unit, same_image)


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with open_buffered(unit.path) as file:
        table = _Table(file, unit.path, settings)
        rows = table.rows(Place(unit.start, unit.line)).places()
        for number, (place, row) in enumerate(itertools.islice(rows, unit.records), unit.first):
            yield table.record(row, f"{number:09d}", columns, place.line)
