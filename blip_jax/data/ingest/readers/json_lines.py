"""JSON lists, as the original's, and JSON lines: an object for each record, with a path or URL.

Both can be read from any record on, so that a large file is divided into several units.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import open_buffered
from blip_jax.data.ingest.records import FieldMapping, RawRecord, RejectedRecord
from blip_jax.runtime.errors import UserError

CHUNK = 1 << 20
LONGEST = 1 << 24  # most characters of one object
BEFORE = " \t\r\n["
BETWEEN = " \t\r\n,"
DECODER = json.JSONDecoder(strict=False)


def chunk_offsets(offsets: Iterable[int], rows: int) -> Iterator[tuple[int, int, int]]:
    """Yields chunks of `rows` records: (offset of the first, its number, number of records)."""
    start = count = 0
    for number, offset in enumerate(offsets):
        if number % rows == 0:
            if number:
                yield start, number - rows, rows
            start = offset
        count = number + 1
    if count:
        first = (count - 1) // rows * rows
        yield start, first, count - first


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the units of a file: byte offset, number of the first record, number of records.

    Raises:
      UserError: the file is not JSON, or its first record has no image or text.
    """
    with open_buffered(path) as file:
        start, listed = _head(file)
        file.seek(start)
        found = _elements(file, path, start, inside=False) if listed else lines(file, start)
        offsets = (offset for offset, _ in _checked(found, FieldMapping(settings), path))
        yield from chunk_offsets(offsets, settings.records_per_unit)


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with open_buffered(unit.path) as file:
        _, listed = _head(file)
        file.seek(unit.start)
        if listed:
            found = (value for _, value in _elements(file, unit.path, unit.start))
        else:
            found = (_parsed(line) for _, line in lines(file, unit.start))
        for number, value in enumerate(itertools.islice(found, unit.records), unit.first):
            name = f"{number:09d}"
            if isinstance(value, dict):
                yield columns.record(value, name)
            else:
                rejection = (
                    value
                    if isinstance(value, RejectedRecord)
                    else RejectedRecord("broken JSON", "not an object")
                )
                yield RawRecord(name, rejection=rejection)


def _checked(found: Iterator[tuple[int, Any]], columns: FieldMapping, path: str) -> Iterator:
    """Yields the same, after checking that the first has images and texts."""
    for number, (offset, value) in enumerate(found):
        if not number:
            value = _parsed(value) if isinstance(value, bytes) else value
            if isinstance(value, dict):
                columns.check(value, path)
            elif path.endswith(".json"):
                raise UserError(
                    f"{path} is neither a JSON list of objects nor JSON lines of objects"
                )
        yield offset, value


def _head(file: io.BufferedIOBase) -> tuple[int, bool]:
    """Returns the offset at which the first value is searched, and whether the file is a list."""
    head = file.read(CHUNK)
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    return start, head[start:].lstrip()[:1] == b"["


def _parsed(line: bytes) -> Any:
    """Returns the line's value; a RejectedRecord if it is not JSON."""
    try:
        return json.loads(line.decode("utf-8", "surrogateescape"), strict=False)
    except (ValueError, RecursionError) as error:
        return RejectedRecord("broken JSON", str(error))


def lines(file, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, line) of the lines that are not blank."""
    for line in file:
        if line.strip():
            yield offset, line
        offset += len(line)


def _elements(file, path: str, offset: int, inside: bool = True) -> Iterator[tuple[int, Any]]:
    """Yields (byte offset, value) of a list's elements.

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
            value, end = DECODER.raw_decode(text, place)
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
