"""Folders of image files, at any depth, with texts in sidecar files of the same name.

x.txt, x.text and x.caption have a text in each line, x.json fields as in any record.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import load
from blip_jax.data.ingest.readers.json_lines import Place, chunk_places, lines
from blip_jax.data.ingest.records import (
    IMAGES,
    TEXTS,
    FieldMapping,
    RawRecord,
    RejectedRecord,
    add_texts,
    as_texts,
)
from blip_jax.data.ingest.text import decode_text, parse_json, text_lines
from blip_jax.runtime.files import atomic_write


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields (folder, names of the folders in it, of its files) of a folder and all below.

    Names are sorted; hidden files and folders are left out.
    """
    for here, folders, files in epath.Path(folder).walk():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield os.fspath(here), folders, sorted(name for name in files if not name.startswith("."))


def sidecars(names: list[str]) -> dict[str, list[str]]:
    """Returns the sidecar files among the files of a folder, by the name without suffix."""
    found: dict[str, list[str]] = {}
    for ending in ("json", *TEXTS):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix[1:].lower() == ending:
                found.setdefault(stem, []).append(name)
    return found


def images(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (path, its sidecar files) of the images below a folder, relative to it, sorted."""
    for here, _, names in walk(folder):
        inner = os.path.relpath(here, folder)
        prefix = "" if inner == "." else inner
        beside = sidecars(names)
        for name in names:
            if name.lower().endswith(IMAGES):
                files = beside.get(os.path.splitext(name)[0], [])
                yield os.path.join(prefix, name), [os.path.join(prefix, file) for file in files]


def write_file_list(folder: str, file_list: epath.Path, settings: IngestConfig) -> bool:
    """Writes the list of a folder's images, a JSON text in each line, unless it exists already.

    Returns True: units read it.
    """
    if not file_list.exists():
        with atomic_write(file_list) as file:
            file.writelines(json.dumps(image) + "\n" for image in images(folder))
    return True


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int, int]]:
    """Yields the units of a file list: byte, number of the first image, number of images, line."""
    with epath.Path(path).open("rb") as file:
        yield from chunk_places(lines(file, Place(0, 1)), settings.records_per_unit)


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with epath.Path(unit.file_list).open("rb") as file:
        file.seek(unit.start)
        for line in itertools.islice(file, unit.records):
            path, beside = json.loads(line)
            yield _record(unit.path, path, beside, columns)


def _record(folder: str, path: str, beside: list[str], columns: FieldMapping) -> RawRecord:
    """Returns the record of an image and its sidecar files."""
    stem = os.path.splitext(path)[0]
    fields, texts = {}, []
    for name in beside:
        try:
            data = load(name, folder, folder)
        except RejectedRecord:
            continue
        if not name.lower().endswith(".json"):
            texts += as_texts(text_lines(decode_text(data)))
            continue
        try:
            value = parse_json(data or b"{}")
        except (ValueError, RecursionError) as error:
            return RawRecord(stem, rejection=RejectedRecord("broken JSON", f"{name}: {error}"))
        fields |= value if isinstance(value, dict) else {"json": value}
    raw = columns.record(fields, stem, kinds=("text", "url"))
    raw.image_path = path
    add_texts(raw, texts)
    return raw
