"""Divides the files of the input into units of work, which get labels of their own."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import re

from etils import epath

from blip_jax.data.ingest.benchmarks import BENCHMARKS, file_list
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
    "benchmark": file_list,
}
SUFFIXES = {
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".tar.bz2": "tar", ".tar.xz": "tar",
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class File:
    """One file or folder of the input.

    Attributes:
      source, format: of the records in it.
      path, size: where it is, and its bytes (0 for a folder).
      folder: the folder that config.source names, if the file was found in it.
    """

    source: str
    format: str
    path: str
    size: int
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class WorkUnit:
    """A unit of work: a file, or some of its records.

    Attributes:
      number: position in the order of rows.
      label: prefix of its rows' keys; each unit has another.
      source, format, path: of the file.
      start, first, records: what to read, as planned by the format's reader: byte offset of the
        first record, its number in the file, and the number of records (-1: all).
      line: of the first record in a file of lines, from 1; 0: unknown.
      file_list: the file that lists the images of a folder, or the records of a JSON object.
      folder: to which paths in the file may be relative, besides the file's own folder.
    """

    number: int
    label: str
    source: str
    format: str
    path: str
    start: int
    first: int
    records: int
    line: int = 0
    file_list: str = ""
    folder: str = ""


def has_magic(pattern: str) -> bool:
    """Returns whether a pattern has wildcards or braces, and can thus stand for several paths."""
    return glob.has_magic(pattern) or "{" in pattern


def source_name(pattern: str) -> str:
    """Returns the name of a source: that of its file, or of the last folder before a wildcard."""
    parts = pattern.split("/")
    if has_magic(pattern) and not os.path.exists(pattern):
        parts = list(itertools.takewhile(lambda part: not has_magic(part), parts))
    return _stem("/".join(parts))


def benchmark_units(
    found: list[File], settings: IngestConfig, folder: epath.Path
) -> tuple[list[WorkUnit], dict]:
    """Returns the units of a benchmark, and what was counted (file_list.write).

    All have the same label, as the owner's ids are unique in a split.

    Raises:
      UserError: a file is cut off or not what its name says, or there is no folder of images.
    """
    listed, name = folder / "file-list-00000.jsonl", settings.benchmark
    paths = [file.path for file in found]
    try:
        counts = file_list.write(BENCHMARKS[name], paths, listed, settings)
    except OSError as error:
        raise UserError(f"{settings.benchmark_folder} cannot be read: {error}") from error
    label = as_name(f"{name}-{settings.split}")
    parts = file_list.plan(os.fspath(listed), settings)
    planned = [
        WorkUnit(number, label, name, "benchmark", settings.benchmark_folder, *part,
                 file_list=os.fspath(listed))
        for number, part in enumerate(parts)
    ]  # fmt: skip
    return planned, counts


def units(found: list[File], settings: IngestConfig, folder: epath.Path) -> list[WorkUnit]:
    """Returns the units of the files; lists of folders' images are written into `folder`.

    Raises:
      UserError: a file is not of its format, or lacks images or texts.
    """
    planned: list[WorkUnit] = []
    labels: set[str] = set()
    for number, file in enumerate(found):
        config = of_source(settings, file.source)
        file_list, path = _file_list(file, folder / f"file-list-{number:05d}.jsonl", config)
        try:
            parts = list(READERS[file.format].plan(path, config))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        except UserError as error:  # names the list, which the user has not written
            raise UserError(str(error).replace(path, file.path)) from error
        name = _stem(file.path)
        for part, chunk in enumerate(parts):
            label = unique(f"{name}-{part:05d}" if len(parts) > 1 else name, labels)
            planned.append(
                WorkUnit(len(planned), label, file.source, file.format, file.path,
                     *chunk, file_list=file_list, folder=file.folder)
            )  # fmt: skip
    if not planned:
        raise UserError(f"config.source {settings.source} has no record; check the files")
    return planned


def _file_list(file: File, file_list: epath.Path, settings: IngestConfig) -> tuple[str, str]:
    """Returns (list of the file's records, if one was written, else ""; the path to plan by)."""
    reader = READERS[file.format]
    if hasattr(reader, "write_file_list"):
        try:
            if reader.write_file_list(file.path, file_list, settings):
                return os.fspath(file_list), os.fspath(file_list)
        except OSError as error:
            raise UserError(f"{file.path} cannot be read: {error.strerror or error}") from error
    return "", file.path


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
