"""TFDS datasets: a folder with features.json, or the name of one prepared on this machine.

Their file format must be ArrayRecord, which needs no TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from blip_jax.data.datasets import check_feature_classes
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.records import FieldMapping, RawRecord, as_text, is_same_image
from blip_jax.runtime.errors import UserError


def _open(path: str, split: str, columns: FieldMapping):
    """Returns (rows of a split as dicts with encoded images, the features by name)."""
    try:
        if (epath.Path(path) / "features.json").exists():
            check_feature_classes(path)
            builder = tfds.builder_from_directory(path)
        else:
            builder = tfds.core.read_only_builder.builder_from_files(path)
        features = builder.info.features
        image = columns.find("image", features)
        decoders = {image: tfds.decode.SkipDecoding()} if image else {}
        if split not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise UserError(f"dataset {path} has no split {split!r}; it has {known}")
        return builder.as_data_source(split, decoders=decoders), features
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # TFDS raises many types
        raise UserError(f"dataset {path} cannot be read: {error}".splitlines()[0]) from error


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int]]:
    """Yields the units of a split: (0, number of the first row, number of rows).

    Raises:
      UserError: there is no such dataset or split, or it has no image or text.
    """
    columns = FieldMapping(settings)
    rows, features = _open(path, settings.split, columns)
    columns.check(list(features), path)
    first = 0
    while first < len(rows):
        end = min(first + settings.records_per_unit, len(rows))
        # The records of one image, which are merged, stay together.
        while end < len(rows) and is_same_image(
            _record(rows, end - 1, features, columns), _record(rows, end, features, columns)
        ):
            end += 1
        yield 0, first, end - first
        first = end


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    columns = FieldMapping(settings)
    rows, features = _open(unit.path, settings.split, columns)
    for number in range(unit.first, unit.first + unit.records):
        yield _record(rows, number, features, columns)


def _record(rows, number: int, features, columns: FieldMapping) -> RawRecord:
    """Returns the record of a row."""
    record = dict(rows[number])
    kind, picture = columns.find_picture(record)
    content = record.pop(picture, None) if picture else None
    fields = {name: _plain(value) for name, value in record.items()}
    if picture:  # a path is a text, as are the bytes of a clip that `prepare` has written
        is_path = kind == "image" and isinstance(features[picture], tfds.features.Text)
        fields[picture] = _plain(content) if is_path else content
    _unpack(fields)
    return columns.record(fields, f"{number:09d}")


def _plain(value: Any) -> Any:
    """Returns a value that TFDS read as JSON; of large arrays only type and shape."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return as_text(value)
    if isinstance(value, np.ndarray) and value.size > 1024:
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _unpack(fields: dict[str, Any]) -> None:
    """Unpacks the fields that an earlier import has stored in one."""
    try:
        packed = json.loads(fields.get("fields", ""))
    except (TypeError, ValueError, RecursionError):
        return
    if isinstance(packed, dict):
        del fields["fields"]
        fields |= packed
