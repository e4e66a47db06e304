"""Folders of image files, at any depth, with texts in sidecar files of the same name.

x.txt has a text in each line, x.json fields as in any record.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import load
from blip_jax.data.ingest.readers.json_lines import chunk_offsets, lines
from blip_jax.data.ingest.records import (
    IMAGES,
    FieldMapping,
    RawRecord,
    RejectedRecord,
    add_texts,
    as_texts,
)
from blip_jax.runtime.files import atomic_write


def images(folder: str) -> Iterator[str]:
    """Yields the paths of the images below a folder, relative to it, sorted; skips hidden ones."""
    root = epath.Path(folder)
    for here, folders, files in root.walk():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(here, name), root)


def write_file_list(folder: str, file_list: epath.Path) -> None:
    """Writes the list of a folder's images, a JSON text in each line, unless it exists already.

    Images that are added to the folder later do not change the units.
    """
    if file_list.exists():
        return
    with atomic_write(file_list) as file:
        file.writelines(json.dumps(path) + "\n" for path in images(folder))


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the units of a file list: byte offset, number of the first image, number of images."""
    with epath.Path(path).open("rb") as file:
        yield from chunk_offsets(
            (offset for offset, _ in lines(file, 0)), settings.records_per_unit
        )


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    with epath.Path(unit.file_list).open("rb") as file:
        file.seek(unit.start)
        for line in itertools.islice(file, unit.records):
            path = json.loads(line)
            stem = os.path.splitext(path)[0]
            try:
                fields = json.loads(_sidecar(unit.path, f"{stem}.json") or "{}")
                fields = fields if isinstance(fields, dict) else {"json": fields}
            except (ValueError, RecursionError) as error:
                yield RawRecord(
                    stem, rejection=RejectedRecord("broken JSON", f"{stem}.json: {error}")
                )
                continue
            raw = columns.record(fields, stem, kinds=("text", "url"))
            raw.image_path = path
            add_texts(raw, as_texts(_sidecar(unit.path, f"{stem}.txt").splitlines()))
            yield raw


def _sidecar(folder: str, name: str) -> str:
    """Returns the content of a sidecar file; "" if there is none."""
    try:
        return load(name, folder, folder).decode("utf-8-sig", "surrogateescape")
    except RejectedRecord:
        return ""
