"""Processes one unit of work: its records are read, checked and written, all or none.

A unit has four files: rows (ArrayRecord), their part of the index (Parquet), skipped records (JSON
lines), and the counts (JSON), which get their name last.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from blip_jax.data.ingest import validation
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.plan import READERS, WorkUnit, as_name, of_source, unique
from blip_jax.data.ingest.records import (
    RawRecord,
    RejectedRecord,
    clean,
    merge_adjacent,
    unreadable,
)
from blip_jax.data.serialization import serializer
from blip_jax.runtime.beam import UnitStopped
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_path, atomic_write

_F = tfds.features
FEATURES = _F.FeaturesDict({
    "key": _F.Text(),  # unique in the dataset
    "image": _F.Image(),  # the original bytes, unless downscaled
    "texts": _F.Sequence(_F.Text()),
    "truth": _F.Text(),  # for evaluation; "" if the input has none
    "url": _F.Text(),
    "source": _F.Text(),
    "sha256": _F.Text(),  # of the original bytes
    "phash": _F.Text(),  # perceptual hash, 16 hex digits
    "width": _F.Scalar(np.int32),  # of the original image
    "height": _F.Scalar(np.int32),
    "fields": _F.Text(),  # JSON: all other fields of the input
})  # fmt: skip
PAIR_FEATURES = _F.FeaturesDict({**FEATURES, "second_image": _F.Image()})  # the right image
# The bytes of a file in place of the image; _F.Video would store frames.
CLIP_FEATURES = _F.FeaturesDict(
    {name: x for name, x in FEATURES.items() if name != "image"} | {"video": _F.Text()}
)
# By what the rows of a dataset hold.
FEATURES_OF = {"images": FEATURES, "pairs": PAIR_FEATURES, "clips": CLIP_FEATURES}
ROWS, INDEX, SKIPPED, COUNTS = "rows", "parquet", "skipped.jsonl", "json"
MERGED = "merged with the record before"  # these records add a text to that record's row
GROUP = 1000  # rows of the index written at once
# Records are read, and rows are written, several at a time: code that runs again soon finds itself
# in the processor's cache.
BATCH, BATCH_BYTES = 32, 1 << 23
# Images are compressed already, so what is fast with such bytes is best.
WRITER_OPTIONS = "group_size:1,snappy"
# What is known of a row while its unit is read; `output` adds the duplicates.
COLUMNS = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("key", "url", "source", "sha256", "phash")]
    + [("width", pyarrow.int32()), ("height", pyarrow.int32()), ("license", pyarrow.string())]
    + [("opt_out", pyarrow.string())]  # JSON: the opt-out fields of the input; null if none
)


def path_of(folder: str, unit: int, kind: str) -> epath.Path:
    """Returns the path of a unit's file of a kind."""
    return epath.Path(folder) / f"{unit:06d}.{kind}"


def is_done(folder: str, unit: int) -> bool:
    return path_of(folder, unit, COUNTS).exists()


def done(folder: str) -> set[int]:
    """Returns the numbers of the units that are done."""
    return {
        int(path.stem) for path in epath.Path(folder).glob(f"*.{COUNTS}") if path.stem.isdecimal()
    }


def read_counts(folder: str, unit: int) -> dict:
    """Returns the counts of a unit that is done."""
    return json.loads(path_of(folder, unit, COUNTS).read_text())


def process_unit(
    unit: WorkUnit, settings: IngestConfig, folder: str, should_continue: Callable[[], bool]
) -> dict:
    """Reads a unit and writes its files into `folder`; returns the counts.

    Args:
      should_continue: called before each record.

    Raises:
      UnitStopped: `should_continue` returned False. UserError: the input cannot be read.
    """
    if is_done(folder, unit.number):  # by a process that continued after the last run had ended
        return read_counts(folder, unit.number)
    names: set[str] = set()
    folders = _folders(unit)
    with _Files(folder, unit.number) as files, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of PIL about unusual but complete files
        for raw in _read_ahead(merge_adjacent(_read(unit, settings))):
            if not should_continue():
                raise UnitStopped
            try:
                values, row_warnings = validation.row(raw, folders, settings)
                about = {
                    "license": validation.licence(raw.fields),
                    "opt_out": validation.opt_out(raw, settings.opt_out_fields),
                }
            except RejectedRecord as rejection:
                files.skipped(unit, raw, rejection)
                continue
            except (
                UserError,
                OSError,
                MemoryError,
            ):  # of the disk or the network, and thus of all records
                raise
            except Exception as error:  # no record ends an import
                files.skipped(unit, raw, unreadable(error))
                continue
            key = f"{unit.label}--{unique(as_name(raw.name), names)}"
            values |= {"key": key, "source": clean(unit.source)}
            files.add(values, about, raw.records, row_warnings)
        return files.finish()


def _folders(unit: WorkUnit) -> list[str]:
    """Returns the folders to which paths in a unit are relative; the first with the file counts."""
    if unit.format in ("folder", "benchmark"):
        return [unit.path]
    own = os.path.dirname(unit.path)
    return [own] if unit.folder in ("", own) else [own, unit.folder]


def _read(unit: WorkUnit, settings: IngestConfig) -> Iterator[RawRecord]:
    try:
        yield from READERS[unit.format].read(unit, of_source(settings, unit.source))
    except OSError as error:
        raise UserError(f"{unit.path} cannot be read: {error.strerror or error}") from error


def _read_ahead(raws: Iterable[RawRecord]) -> Iterator[RawRecord]:
    """Yields the records, of which a batch is read at once."""
    batch, size = [], 0
    for raw in raws:
        batch.append(raw)
        size += len(raw.image or raw.video or b"")
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield from batch
            batch, size = [], 0
    yield from batch


class _Files:
    """The files of a unit while they are written, under temporary names.

    They get their own names when the block ends without an error, the counts last.
    """

    def __init__(self, folder: str, unit: int):
        self._folder, self._unit = folder, unit
        self._serializers: dict[str, Callable] = {}  # by what the rows hold
        self._bytes = self._unwritten_bytes = self._rows = self._records_read = 0
        self._reasons: Counter = Counter()
        self._warnings: Counter = Counter()
        self._index: list[dict] = []
        self._unwritten: list[tuple[str, dict]] = []  # rows, with what they hold

    def __enter__(self) -> _Files:
        with contextlib.ExitStack() as stack:
            # Exits in reverse order, so the counts, which mark the unit as done, are renamed last.
            self._counts = stack.enter_context(atomic_write(self._path(COUNTS)))
            self._skipped = stack.enter_context(atomic_write(self._path(SKIPPED)))
            rows = stack.enter_context(atomic_path(self._path(ROWS)))
            index = stack.enter_context(atomic_path(self._path(INDEX)))
            self._writer = ArrayRecordWriter(str(rows), WRITER_OPTIONS)
            stack.callback(self._writer.close)
            self._table = stack.enter_context(pyarrow.parquet.ParquetWriter(str(index), COLUMNS))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def _path(self, kind: str) -> epath.Path:
        return path_of(self._folder, self._unit, kind)

    def add(self, values: dict, about: dict, records: int, row_warnings: Counter) -> None:
        """Writes a row that represents `records` input records; `about` goes to the index alone."""
        content = "pairs" if "second_image" in values else "images"
        content = "clips" if "video" in values else content
        self._unwritten.append((content, values))
        self._unwritten_bytes += len(values["video" if content == "clips" else "image"])
        if len(self._unwritten) == BATCH or self._unwritten_bytes >= BATCH_BYTES:
            self._write_rows()
        self._rows += 1
        self._records_read += records
        self._warnings.update(row_warnings)
        if records > 1:
            self._reasons[MERGED] += records - 1
        known = {name: values[name] for name in COLUMNS.names if name in values}
        self._index.append(known | about)
        if len(self._index) == GROUP:
            self._flush()

    def skipped(self, unit: WorkUnit, raw: RawRecord, rejection: RejectedRecord) -> None:
        """Writes why a record was skipped."""
        self._records_read += raw.records
        self._reasons[rejection.reason] += raw.records
        line = {
            "source": unit.source, "file": unit.path, "name": raw.name, "url": raw.url,
            "records": raw.records, "reason": rejection.reason, "detail": rejection.detail,
        }  # fmt: skip
        self._skipped.write(json.dumps(line) + "\n")

    def _write_rows(self) -> None:
        for content, values in self._unwritten:
            if content not in self._serializers:
                self._serializers[content] = serializer(FEATURES_OF[content])
            example = self._serializers[content](values)
            self._writer.write(example)
            self._bytes += len(example)
        self._unwritten, self._unwritten_bytes = [], 0

    def _flush(self) -> None:
        if self._index:
            self._table.write_table(pyarrow.Table.from_pylist(self._index, COLUMNS))
            self._index = []

    def finish(self) -> dict:
        """Writes the remaining index rows and the counts; returns these."""
        self._write_rows()
        self._flush()
        counts = {
            "records_read": self._records_read,
            "rows": self._rows,
            "bytes": self._bytes,
            "contents": sorted(self._serializers),
            "skipped": dict(sorted(self._reasons.items())),
            "warnings": {name: count for name, count in sorted(self._warnings.items()) if count},
        }
        self._counts.write(json.dumps(counts))
        return counts
