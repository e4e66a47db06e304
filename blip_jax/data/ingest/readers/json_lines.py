"""JSON lists, as the original's, and JSON lines: an object for each record, with a path or URL.

Both can be read from any record on, so that a large file is divided into several units. Objects
that contain a list, such as COCO's, are first written as JSON lines (json_documents.py).
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers import json_documents
from blip_jax.data.ingest.readers.image_files import open_buffered
from blip_jax.data.ingest.records import FieldMapping, RawRecord, RejectedRecord, is_same_image
from blip_jax.data.ingest.text import DECODER, LENIENT_DECODER, UTF8_BOM, check_utf8, parse_json
from blip_jax.runtime.errors import UserError

CHUNK = 1 << 20
LONGEST = 1 << 24  # most characters of one object
BEFORE = " \t\r\n["
BETWEEN = " \t\r\n,"
# What opens a value, ends it, or hides either; a string may continue in what is not read yet.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[\[\]{}]', re.DOTALL)

Item = TypeVar("Item")
Offset = TypeVar("Offset")


class Place(NamedTuple):
    """Where a record starts in a file: the byte, from 0, and the line, from 1."""

    byte: int
    line: int


def chunk_offsets(
    records: Iterable[tuple[Offset, Item]],
    rows: int,
    same_image: Callable[[Item, Item], bool] = lambda before, after: False,
) -> Iterator[tuple[Offset, int, int]]:
    """Yields chunks of `rows` records: (offset of the first, its number, number of records).

    A chunk is longer where the next would start with a record that is merged with the one before:
    where a file is cut must not change its rows.

    Args:
      records: (offset, record).
      same_image: of two consecutive records, whether they are merged (records.is_same_image).
    """
    first = count = 0
    start = before = None
    for number, (offset, record) in enumerate(records):
        if number == 0:
            start = offset
        elif number - first >= rows and not same_image(before, record):
            yield start, first, number - first
            start, first = offset, number
        before, count = record, number + 1
    if count:
        yield start, first, count - first


def chunk_places(
    records: Iterable[tuple[Place, Item]],
    rows: int,
    same_image: Callable[[Item, Item], bool] = lambda before, after: False,
) -> Iterator[tuple[int, int, int, int]]:
    """Yields the chunks of `chunk_offsets`, each followed by the line of its first record."""
    for place, first, count in chunk_offsets(records, rows, same_image):
        yield place.byte, first, count, place.line


def write_file_list(path: str, file_list: epath.Path, settings: IngestConfig) -> bool:
    """Writes the records of an object that contains a list as JSON lines; False for other files."""
    return json_documents.write(path, file_list, settings)


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int, int]]:
    """Yields the units of a file: byte, number of the first record, number of records, line.

    Raises:
      UserError: the file is not JSON, or its first record has no image or text.
    """
    columns = FieldMapping(settings)

    def same_image(before: Any, after: Any) -> bool:
        return is_same_image(_record(before, "", columns, ""), _record(after, "", columns, ""))

    with open_buffered(path) as file:
        start, listed = _head(file, path)
        file.seek(start)
        place = Place(start, 1)
        found = _elements(file, path, place, inside=False) if listed else lines(file, place)
        yield from chunk_places(
            _checked(found, columns, path), settings.records_per_unit, same_image
        )


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    path = unit.file_list or unit.path
    with open_buffered(path) as file:
        _, listed = _head(file, path)
        file.seek(unit.start)
        place = Place(unit.start, unit.line)
        found = _elements(file, path, place) if listed else lines(file, place)
        for number, (place, value) in enumerate(itertools.islice(found, unit.records), unit.first):
            where = "" if unit.file_list else f"line {place.line}"  # of a file the user knows
            yield _record(value, f"{number:09d}", columns, where)


def _record(value: Any, name: str, columns: FieldMapping, where: str) -> RawRecord:
    """Returns the record of a list's element, or of a line; `where` it is, for its rejection."""
    if isinstance(value, bytes):
        value = _parsed(value)
    if isinstance(value, dict):
        return columns.record(value, name)
    detail = value.detail if isinstance(value, RejectedRecord) else "not an object"
    detail = f"{where}: {detail}" if where else detail
    return RawRecord(name, rejection=RejectedRecord("broken JSON", detail))


def _checked(found: Iterator[tuple[Place, Any]], columns: FieldMapping, path: str) -> Iterator:
    """Yields the same, after checking that the first has images and texts."""
    for number, (place, value) in enumerate(found):
        if not number:
            first = _parsed(value) if isinstance(value, bytes) else value
            if isinstance(first, dict):
                columns.check(first, path)
            elif path.lower().endswith(".json") and not isinstance(value, RejectedRecord):
                raise UserError(
                    f"{path} is neither a JSON list of objects nor JSON lines of objects; write "
                    "an object with an image and a text on each line"
                )
        yield place, value


def _head(file: io.BufferedIOBase, path: str) -> tuple[int, bool]:
    """Returns the offset at which the first value is searched, and whether the file is a list."""
    head = file.read(CHUNK)
    start = len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0
    check_utf8(head[:4], path)
    return start, head[start:].lstrip()[:1] == b"["


def _parsed(line: bytes) -> Any:
    """Returns the line's value; a RejectedRecord if it is not JSON."""
    try:
        return parse_json(line.rstrip())
    except json.JSONDecodeError as error:
        return RejectedRecord("broken JSON", f"{error.msg}, column {error.colno}")
    except (ValueError, RecursionError) as error:
        return RejectedRecord("broken JSON", str(error))


def lines(file, place: Place) -> Iterator[tuple[Place, bytes]]:
    """Yields the lines of a file, which is at `place`, that are not blank; and where each is."""
    for line in file:
        if line.strip():
            yield place, line
        place = Place(place.byte + len(line), place.line + 1)


def _elements(file, path: str, start: Place, inside: bool = True) -> Iterator[tuple[Place, Any]]:
    """Yields (where it is, value) of a list's elements; a RejectedRecord if one is unreadable.

    `file` is at `start`: at an element if `inside` the list, else before the list's [.
    """
    offset, line = start
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, place, ended = "", 0, False
    while True:
        while text[place : place + 1] and text[place] in (BETWEEN if inside else BEFORE):
            inside = inside or text[place] == "["
            line += text[place] == "\n"
            place, offset = place + 1, offset + 1  # each of these characters is one byte
        if text[place : place + 1] == "]":
            return
        try:
            value, end = _decoded(text, place)
            whole = ended or end < len(text)  # otherwise a number might continue
        except (ValueError, RecursionError) as error:
            whole = False
            if len(text) - place > LONGEST or (ended and place < len(text)):
                fault = str(error).splitlines()[0]
                if isinstance(error, json.JSONDecodeError):
                    fault = error.msg
                    line += text.count("\n", place, error.pos)
                message = f"{path} is not JSON near line {line} (byte {offset}): {fault}"
                raise UserError(message) from error
        if whole:
            yield Place(offset, line), value
            line += text.count("\n", place, end)
            offset += len(text[place:end].encode("utf-8", "surrogateescape"))
            place = end
        elif ended:
            raise UserError(f"{path} ends in line {line} without the ] of its list")
        else:
            data = file.read(CHUNK)
            ended = not data
            text, place = text[place:] + decoder.decode(data, final=ended), 0


def _decoded(text: str, place: int) -> tuple[Any, int]:
    """Returns (value, place of its end); for one nested too deeply a RejectedRecord.

    Raises:
      ValueError: it is not JSON, or not whole.
    """
    try:
        try:
            return DECODER.raw_decode(text, place)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer without end
            return LENIENT_DECODER.raw_decode(text, place)
    except RecursionError as error:
        return RejectedRecord("broken JSON", str(error)), _end_of_value(text, place)


def _end_of_value(text: str, place: int) -> int:
    """Returns where an object or list ends, however deep it is.

    Raises:
      ValueError: it does not end in the text.
    """
    depth = 0
    for token in _TOKEN.finditer(text, place):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth == 0 and token[0] in "]}":
            return token.end()
    raise ValueError(f"a value that starts at {place} does not end")
