"""Tars of webdataset and img2dataset: members with the same name but for the suffix are a record.

They are read as a stream, compressed or not; no member is written to disk.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import is_unsafe
from blip_jax.data.ingest.records import (
    IMAGES,
    MAX_BYTES,
    FieldMapping,
    RawRecord,
    RejectedRecord,
    add_texts,
    as_texts,
)

TEXTS = ("txt", "text", "caption")  # suffixes of text members
DAMAGE = (tarfile.TarError, EOFError, zlib.error)  # an OSError comes from the disk or the network
SMALL = 1 << 16  # other members of at most this many bytes are kept as fields


class _Header(tarfile.TarInfo):
    """Raises for a damaged header in the middle of a file, which tarfile would take for its end."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields one unit for the file: (0, 0, -1)."""
    yield 0, 0, -1


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a tar; if it is damaged, the last one is rejected for that."""
    columns = FieldMapping(settings)
    name, members = "", {}
    try:
        for prefix, suffix, data in _members(unit.path):
            if members and (prefix != name or suffix in members):
                yield _record(name, members, columns)
                members = {}
            name, members[suffix] = prefix, data
    except DAMAGE as error:
        if members:  # its last member may be missing
            yield RawRecord(name, rejection=RejectedRecord("broken archive", "its last record"))
        yield RawRecord(
            "", rejection=RejectedRecord("broken archive", f"{type(error).__name__}: {error}")
        )
        return
    if members:
        yield _record(name, members, columns)


def _members(path: str) -> Iterator[tuple[str, str, bytes | RejectedRecord]]:
    """Yields (name without suffixes, suffixes, content) of each file in the tar."""
    with (
        epath.Path(path).open("rb") as file,
        tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header, errorlevel=2) as tar,
    ):
        for member in tar:
            tar.members = []  # otherwise tarfile keeps all of them
            if member.isdir():
                continue
            folder, slash, base = member.name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            prefix = folder + slash + stem
            if is_unsafe(member.name):
                yield prefix, suffix, RejectedRecord("unsafe name", member.name)
            elif not stem or not dot:  # hidden, or without suffix
                yield prefix + base, "", RejectedRecord("file of no record", member.name)
            elif not member.isfile():
                yield prefix, suffix, RejectedRecord("missing image", f"{member.name} is a link")
            elif member.size > MAX_BYTES:
                yield (
                    prefix,
                    suffix,
                    RejectedRecord("too many bytes", f"{member.size} in {member.name}"),
                )
            else:
                yield prefix, suffix, tar.extractfile(member).read()


def _record(
    name: str, members: dict[str, bytes | RejectedRecord], columns: FieldMapping
) -> RawRecord:
    """Returns the record of the members, which are given by suffix."""
    for content in members.values():
        if isinstance(content, RejectedRecord):
            return RawRecord(name, rejection=content)
    suffixes = [suffix for suffix in members if f".{suffix}".lower().endswith(IMAGES)]
    image = columns.given("image") or next(iter(suffixes), None)
    try:
        fields = _fields(members, image)
    except (ValueError, RecursionError) as error:
        return RawRecord(name, rejection=RejectedRecord("broken JSON", str(error)))
    raw = columns.record(fields, name, kinds=("text", "url"))
    raw.image_path = ""  # the URL is only where it was downloaded from
    for suffix in TEXTS:
        add_texts(raw, as_texts(members.get(suffix)))
    raw.image = members.get(image)
    return raw


def _fields(members: dict[str, bytes], image: str | None) -> dict[str, Any]:
    """Returns the fields in the members other than image and text.

    Raises:
      ValueError, RecursionError: the JSON is invalid.
    """
    fields = {}
    for suffix, data in members.items():
        if suffix == "json":
            value = json.loads(data.decode("utf-8", "surrogateescape"))
            fields |= value if isinstance(value, dict) else {"json": value}
        elif suffix != image and suffix not in TEXTS:
            kept = len(data) <= SMALL and b"\0" not in data
            fields[suffix] = data.decode("utf-8", "replace") if kept else f"{len(data)} bytes"
    return fields
