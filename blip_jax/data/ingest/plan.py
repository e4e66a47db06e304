"""Finds the files that config.source names, and divides them into units of work."""

from __future__ import annotations

import collections
import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Iterator

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers import (
    csv_tables,
    folders,
    json_lines,
    parquet,
    tfds_datasets,
    webdataset,
)
from blip_jax.runtime.errors import UserError

READERS = {
    "tar": webdataset,
    "json": json_lines,
    "csv": csv_tables,
    "parquet": parquet,
    "folder": folders,
    "tfds": tfds_datasets,
}
SUFFIXES = {
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".tar.bz2": "tar", ".tar.xz": "tar",
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip
# In a folder, only the files with the first of these endings that occurs are read: img2dataset also
# writes a Parquet file for each tar, and Hugging Face image folders have a metadata.jsonl or .csv.
FOLDER_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".parquet", "metadata.jsonl", "metadata.csv")


@dataclasses.dataclass(frozen=True)
class File:
    """One file or folder of the input, and its size in bytes (0 for a folder)."""

    source: str
    format: str
    path: str
    size: int


@dataclasses.dataclass(frozen=True)
class WorkUnit:
    """A unit of work: a file, or some of its records.

    Attributes:
      number: position in the order of rows.
      label: prefix of its rows' keys; each unit has another.
      source, format, path: of the file.
      start, first, records: what to read, as planned by the format's reader: byte offset of the
        first record, its number in the file, and the number of records (-1: all).
      file_list: the file that lists the images of a folder.
    """

    number: int
    label: str
    source: str
    format: str
    path: str
    start: int
    first: int
    records: int
    file_list: str = ""


def files(settings: IngestConfig) -> list[File]:
    """Returns the files that `source` names, in order.

    Raises:
      UserError: there is none, or the format of one is unknown.
    """
    found = []
    for pattern in filter(None, (part.strip() for part in settings.source.split(","))):
        paths, name = _expand(pattern), ""
        if not paths and (named := re.fullmatch(r"([\w.-]+)=(.+)", pattern)):
            name, pattern = named.groups()
            paths = _expand(pattern)
        if not paths and settings.format == "tfds":
            paths = [pattern]
        if not paths:
            raise UserError(f"config.source names {pattern}, which does not exist; check the path")
        for path in paths:
            found += _files(path, name or source_name(pattern), settings.format)
    settings.columns.check_sources(sorted({file.source for file in found}))
    counts = collections.Counter(file.path for file in found)
    path, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise UserError(f"config.source names {path} twice")
    return found


def _expand(pattern: str) -> list[str]:
    """Returns the paths that match a pattern, sorted."""
    if "://" not in pattern:
        return sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    if not glob.has_magic(pattern):
        return [pattern] if epath.Path(pattern).exists() else []
    root, rest = re.fullmatch(r"([^*?[]*/)(.*)", pattern).groups()
    return sorted(os.fspath(path) for path in epath.Path(root).glob(rest))


def source_name(pattern: str) -> str:
    """Returns the name of a source: that of its file, or of the last folder before a wildcard."""
    parts = pattern.split("/")
    if glob.has_magic(pattern):
        parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    return _stem("/".join(parts))


def _files(path: str, source: str, format: str) -> Iterator[File]:
    location = epath.Path(path)
    if not location.is_dir():
        suffix = next((s for s in SUFFIXES if path.lower().endswith(s)), None)
        format = format or SUFFIXES.get(suffix, "")
        if format == "tfds":
            yield File(source, format, path, 0)
        elif not format or format == "folder":
            known = ", ".join(SUFFIXES)
            raise UserError(
                f"{path} has no ending of a supported format ({known}); give --config.format"
            )
        else:
            yield File(source, format, path, location.stat().length)
        return
    if format == "tfds" or (not format and (location / "features.json").exists()):
        yield File(source, "tfds", path, 0)
        return
    suffixes = [suffix for suffix, kind in SUFFIXES.items() if kind == format]
    for suffix in suffixes if format else FOLDER_SUFFIXES:
        children = sorted(os.fspath(child) for child in location.glob(f"*{suffix}"))
        if children:
            for child in children:
                yield from _files(child, source, format)
            return
    if format not in ("", "folder"):
        raise UserError(f"folder {path} has no {format} file; check --config.format")
    yield File(source, "folder", path, 0)


def units(found: list[File], settings: IngestConfig, folder: epath.Path) -> list[WorkUnit]:
    """Returns the units of the files; lists of folders' images are written into `folder`.

    Raises:
      UserError: a file is not of its format, or lacks images or texts.
    """
    planned: list[WorkUnit] = []
    labels: set[str] = set()
    for number, file in enumerate(found):
        file_list, path = "", file.path
        if file.format == "folder":
            file_list = path = os.fspath(folder / f"file-list-{number:05d}.jsonl")
            folders.write_file_list(file.path, epath.Path(file_list))
        try:
            parts = list(READERS[file.format].plan(path, of_source(settings, file.source)))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        name = _stem(file.path)
        for part, (start, first, rows) in enumerate(parts):
            label = unique(f"{name}-{part:05d}" if len(parts) > 1 else name, labels)
            planned.append(
                WorkUnit(len(planned), label, file.source, file.format, file.path,
                     start, first, rows, file_list)
            )  # fmt: skip
    if not planned:
        raise UserError(f"config.source {settings.source} has no record; check the files")
    return planned


def of_source(settings: IngestConfig, source: str) -> IngestConfig:
    """Returns the settings for one source, with its own columns."""
    return dataclasses.replace(settings, columns=settings.columns.of_source(source))


def _stem(path: str) -> str:
    """Returns the last part of a path as a name, without suffix or version of a TFDS dataset."""
    parts = [part for part in path.split("/") if not re.fullmatch(r"\.*|\d+\.\d+\.\d+", part)]
    base = parts[-1].partition(":")[0] if parts else "import"
    suffix = next((s for s in sorted(SUFFIXES, key=len)[::-1] if base.lower().endswith(s)), "")
    return as_name(base[: len(base) - len(suffix)])


def as_name(text: str) -> str:
    """Returns a name for files and webdataset members: no dots, slashes or double dashes."""
    return re.sub(r"[\W-]+", "-", text).strip("-")[:100] or "record"


def unique(name: str, taken: set[str]) -> str:
    """Returns the name, followed by a number if it is in `taken`, and adds it there."""
    chosen, number = name, 1
    while chosen in taken:
        number += 1
        chosen = f"{name}-{number}"
    taken.add(chosen)
    return chosen
