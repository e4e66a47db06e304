"""Random access to image-text datasets on disk.

A dataset is named by the directory that holds its features.json. Its records are
{'key': Text, 'image': Image, 'texts': Sequence(Text), 'truth': Text}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from blip_jax.data.remote import RemoteDataSource
from blip_jax.runtime.errors import UserError


def open_dataset(directory: str, split: str):
    """Returns a TFDS data source: `len`, and records by row as dicts of bytes and arrays.

    Images stay encoded bytes.

    Args:
      directory: the folder of features.json, local or `gs://`, whose files are copied when read.
      split: a split's name, or a slice such as 'train[10:20]'.

    Raises:
      UserError: there is no dataset in the directory, no such split, or files are missing.
    """
    if not (epath.Path(directory) / "features.json").exists():
        raise UserError(
            f"no dataset in {directory}: features.json is missing there; build one with "
            "`blip-jax prepare`"
        )
    try:
        builder = tfds.builder_from_directory(str(directory))
        names = sorted(builder.info.splits)
    except Exception as error:  # TFDS raises many types for a damaged directory
        raise UserError(f"dataset {directory} cannot be read: {error}".splitlines()[0]) from error
    if split.split("[")[0] not in names:
        raise UserError(f"dataset {directory} has no split {split!r}; it has {', '.join(names)}")
    decoders = {}
    if "image" in builder.info.features:
        decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        if "://" in str(directory):
            return RemoteDataSource(builder, split, decoders)
        return builder.as_data_source(split, decoders=decoders)
    except Exception as error:
        message = f"split {split!r} of {directory} cannot be read: {error}".splitlines()[0]
        raise UserError(message) from error


def to_text(value) -> str:
    """Returns a text that TFDS read back as bytes; bytes that are not UTF-8 become U+FFFD."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def plain_value(value: Any) -> Any:
    """Returns a field that TFDS read, with str for bytes, lists for arrays, numbers for NumPy's.

    A sequence of records is a dict of lists.
    """
    if isinstance(value, Mapping):
        return {name: plain_value(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain_value(value.tolist())
    if isinstance(value, list | tuple):
        return [plain_value(entry) for entry in value]
    if isinstance(value, bytes):
        return to_text(value)
    return value.item() if isinstance(value, np.generic) else value
