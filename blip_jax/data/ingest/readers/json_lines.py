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
from typing import Any, TypeVar

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


def chunk_offsets(
    records: Iterable[tuple[int, Item]],
    rows: int,
    same_image: Callable[[Item, Item], bool] = lambda before, after: False,
) -> Iterator[tuple[int, int, int]]:
    """Yields chunks of `rows` records: (offset of the first, its number, number of records).

    A chunk is longer where the next would start with a record that is merged with the one before:
    where a file is cut must not change its rows.

    Args:
      records: (offset, record).
      same_image: of two consecutive records, whether they are merged (records.is_same_image).
    """
    start = first = count = 0
    before = None
    for number, (offset, record) in enumerate(records):
        if number == 0:
            start = offset
        elif number - first >= rows and not same_image(before, record):
            yield start, first, number - first
            start, first = offset, number
        before, count = record, number + 1
    if count:
        yield start, first, count - first


def write_file_list(path: str, file_list: epath.Path, settings: IngestConfig) -> bool:
    """Writes the records of an object that contains a list as JSON lines; False for other files."""
    return json_documents.write(path, file_list, settings)


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the units of a file: byte offset, number of the first record, number of records.

    Raises:
      UserError: the file is not JSON, or its first record has no image or text.
    """
    columns = FieldMapping(settings)

    def same_image(before: Any, after: Any) -> bool:
        return is_same_image(_record(before, "", columns), _record(after, "", columns))

    with open_buffered(path) as file:
        start, listed = _head(file, path)
        file.seek(start)
        found = _elements(file, path, start, inside=False) if listed else lines(file, start)
        yield from chunk_offsets(
            _checked(found, columns, path), settings.records_per_unit, same_image
        )


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    path = unit.file_list or unit.path
    with open_buffered(path) as file:
        _, listed = _head(file, path)
        file.seek(unit.start)
        found = _elements(file, path, unit.start) if listed else lines(file, unit.start)
        for number, (_, value) in enumerate(itertools.islice(found, unit.records), unit.first):
            yield _record(value, f"{number:09d}", columns)


def _record(value: Any, name: str, columns: FieldMapping) -> RawRecord:
    """Returns the record of a list's element, or of a line."""
    if isinstance(value, bytes):
        value = _parsed(value)
    if isinstance(value, dict):
        return columns.record(value, name)
    if not isinstance(value, RejectedRecord):
        value = RejectedRecord("broken JSON", "not an object")
    return RawRecord(name, rejection=value)


def _checked(found: Iterator[tuple[int, Any]], columns: FieldMapping, path: str) -> Iterator:
    """Yields the same, after checking that the first has images and texts."""
    for number, (offset, value) in enumerate(found):
        if not number:
            first = _parsed(value) if isinstance(value, bytes) else value
            if isinstance(first, dict):
                columns.check(first, path)
            elif path.lower().endswith(".json") and not isinstance(value, RejectedRecord):
                raise UserError(
                    f"{path} is neither a JSON list of objects nor JSON lines of objects; write "
                    "an object with an image and a text on each line"
                )
        yield offset, value


def _head(file: io.BufferedIOBase, path: str) -> tuple[int, bool]:
    """Returns the offset at which the first value is searched, and whether the file is a list."""
    head = file.read(CHUNK)
    start = len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0
    check_utf8(head[:4], path)
    return start, head[start:].lstrip()[:1] == b"["


def _parsed(line: bytes) -> Any:
    """Returns the line's value; a RejectedRecord if it is not JSON."""
    try:
        return parse_json(line)
    except (ValueError, RecursionError) as error:
        return RejectedRecord("broken JSON", str(error))


def lines(file, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, line) of the lines that are not blank."""
    for line in file:
        if line.strip():
            yield offset, line
        offset += len(line)


def _elements(file, path: str, offset: int, inside: bool = True) -> Iterator[tuple[int, Any]]:
    """Yields (byte offset, value) of a list's elements; a RejectedRecord if one is unreadable.

    `file` is at byte `offset`: at an element if `inside` the list, else before the list's [.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, place, ended = "", 0, False
    while True:
        while text[place : place + 1] and text[place] in (BETWEEN if inside else BEFORE):
            inside = inside or text[place] == "["
            place, offset = place + 1, offset + 1  # each of these characters is one byte
        if text[place : place + 1] == "]":
            return
        try:
            value, end = _decoded(text, place)
            whole = ended or end < len(text)  # otherwise a number might continue
        except (ValueError, RecursionError) as error:
            whole = False
            if len(text) - place > LONGEST or (ended and place < len(text)):
                message = f"{path} is not JSON near byte {offset}: {error}"
                raise UserError(message.splitlines()[0]) from error
        if whole:
            yield offset, value
            offset += len(text[place:end].encode("utf-8", "surrogateescape"))
            place = end
        elif ended:
            raise UserError(f"{path} ends at byte {offset} without the ] of its list")
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
