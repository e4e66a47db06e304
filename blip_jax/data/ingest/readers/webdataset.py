"""Tars of webdataset and img2dataset: members with the same name but for the suffix are a record.

They are read as a stream, compressed or not; no member is written to disk. By webdataset's rule the
suffix starts at the first dot of a name; where that would mix several images, at the last.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import is_unsafe
from blip_jax.data.ingest.readers.tar_entries import entries
from blip_jax.data.ingest.records import (
    IMAGES,
    MAX_BYTES,
    TEXTS,
    FieldMapping,
    RawRecord,
    RejectedRecord,
    add_texts,
    as_texts,
)
from blip_jax.data.ingest.text import parse_json

DAMAGE = (tarfile.TarError, EOFError, zlib.error)  # an OSError comes from the disk or the network
SMALL = 1 << 16  # other members of at most this many bytes are kept as fields
MANY = 16  # members from which on it is asked whether they are several records


class _Member(NamedTuple):
    """A file in a tar: its name to the first dot, its name to the last, and its content."""

    name: str
    first: str
    last: str
    content: bytes | RejectedRecord

    @property
    def kind(self) -> str:
        suffix = self.name[len(self.last) + 1 :].lower()
        return "image" if f".{suffix}".endswith(IMAGES) else "text" if suffix in TEXTS else suffix


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields one unit for the file: (0, 0, -1)."""
    yield 0, 0, -1


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a tar; if it is damaged, the last one is rejected for that."""
    columns = FieldMapping(settings)
    held: list[_Member] = []  # of one name to the first dot
    names: set[str] = set()  # of those since that name began
    try:
        for member in _members(unit.path):
            if held and (member.first != held[0].first or member.name in names):
                yield from _records(held, columns)
                held, names = [], set()
            elif len(held) >= MANY and _is_power_of_two(len(held)) and _has_dots(held):
                yield from _records([m for m in held if m.last != member.last], columns)
                held = [m for m in held if m.last == member.last]
            held.append(member)
            names.add(member.name)
    except DAMAGE as error:
        if held:  # its last member may be missing
            *whole, (name, _) = _split(held)
            for other, members in whole:
                yield _record(other, members, columns)
            yield RawRecord(name, rejection=RejectedRecord("broken archive", "its last record"))
        yield RawRecord(
            "", rejection=RejectedRecord("broken archive", f"{type(error).__name__}: {error}")
        )
        return
    yield from _records(held, columns)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _members(path: str) -> Iterator[_Member]:
    """Yields the files in a tar."""
    with epath.Path(path).open("rb") as file:
        for entry in entries(file):
            if entry.kind == "folder":
                continue
            folder, slash, base = entry.name.rpartition("/")
            stem, dot, _ = base.partition(".")
            first, last = folder + slash + stem, os.path.splitext(entry.name)[0]
            if is_unsafe(entry.name):
                content = RejectedRecord("unsafe name", entry.name)
            elif not stem or not dot:  # hidden, or without suffix
                first = last = folder + slash + base
                content = RejectedRecord("file of no record", entry.name)
            elif entry.kind != "file":
                content = RejectedRecord("missing image", f"{entry.name} is a link or device")
            elif entry.size > MAX_BYTES:
                content = RejectedRecord("too many bytes", f"{entry.size} in {entry.name}")
            else:
                content = entry.read()
            yield _Member(entry.name, first, last, content)


def _has_dots(members: list[_Member]) -> bool:
    """Returns whether members of one name to the first dot are several images with names that
    have dots (street.2.jpg, street.3.jpg), each with its texts, or one (1.0.png, 1.0.txt)."""
    if all(member.last == members[0].first for member in members):
        return False
    kinds: dict[str, set[str]] = {}
    for member in members:
        kinds.setdefault(member.last, set()).add(member.kind)
    plain = kinds.pop(members[0].first, set())
    pictured = [found for found in kinds.values() if "image" in found]
    if plain:  # street.jpg is an image of its own, if others have texts of their own
        return "image" in plain and any("text" in found for found in pictured)
    return len(pictured) > 1 or any(found & {"text", "json"} for found in pictured)


def _split(members: list[_Member]) -> list[tuple[str, list[_Member]]]:
    """Returns (name, members) of the records in members of one name to the first dot."""
    groups: dict[str, list[_Member]] = {}
    dots = bool(members) and _has_dots(members)
    for member in members:
        groups.setdefault(member.last if dots else member.first, []).append(member)
    return list(groups.items())


def _records(members: list[_Member], columns: FieldMapping) -> Iterator[RawRecord]:
    for name, record in _split(members):
        yield _record(name, record, columns)


def _record(name: str, members: list[_Member], columns: FieldMapping) -> RawRecord:
    """Returns the record of these members."""
    for member in members:
        if isinstance(member.content, RejectedRecord):
            return RawRecord(name, rejection=member.content)
    contents = {_suffix(member.name[len(name) + 1 :]): member.content for member in members}
    suffixes = [suffix for suffix in contents if f".{suffix}".lower().endswith(IMAGES)]
    image = columns.given("image") or next(iter(suffixes), None)
    try:
        fields = _fields(contents, image)
    except (ValueError, RecursionError) as error:
        return RawRecord(name, rejection=RejectedRecord("broken JSON", str(error)))
    raw = columns.record(fields, name, kinds=("text", "url"))
    raw.image_path = ""  # the URL is only where it was downloaded from
    for suffix in TEXTS:
        add_texts(raw, as_texts(contents.get(suffix)))
    raw.image = contents.get(image)
    raw.unused_images = len([suffix for suffix in suffixes if suffix != image])
    return raw


def _suffix(suffix: str) -> str:
    """Returns a suffix; those of texts and fields without capitals."""
    return suffix.lower() if suffix.lower() in (*TEXTS, "json") else suffix


def _fields(contents: dict[str, bytes], image: str | None) -> dict[str, Any]:
    """Returns the fields in the members other than image and text, which are given by suffix.

    Raises:
      ValueError, RecursionError: the JSON is invalid.
    """
    fields = {}
    for suffix, data in contents.items():
        if suffix == "json":
            value = parse_json(data)
            fields |= value if isinstance(value, dict) else {"json": value}
        elif suffix != image and suffix not in TEXTS:
            kept = len(data) <= SMALL and b"\0" not in data
            fields[suffix] = data.decode("utf-8", "replace") if kept else f"{len(data)} bytes"
    return fields
