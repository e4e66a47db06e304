"""Random access to image-text datasets on disk.

A dataset is named by the directory that holds its features.json. Its records are
{'key': Text, 'image': Image, 'texts': Sequence(Text), 'truth': Text}; pairs of images have also
'second_image', clips have 'video', the bytes of a file, in place of 'image', and what a task needs
besides is in 'fields' (fields.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme, read_json
from blip_jax.runtime.fingerprint import folder_digest

FEATURES = "features.json"
# Fields whose encoded bytes are read as they are.
ENCODED_FIELDS = ("image", "second_image", "video")
# Classes that features.json may name. TFDS imports any module that is named there.
FEATURE_CLASSES = "tensorflow_datasets.core.features."
_CLASS_FIELDS = ("pythonClassName", "python_class_name", "type")


class Dataset:
    """Records by row, as dicts of bytes and arrays; a record that cannot be read is a UserError.

    Attributes:
      dataset_info: TFDS's description, with `features` and `splits`.
      data_source: the bytes of the records.
    """

    def __init__(self, directory: str, split: str, source: Any):
        import tensorflow_datasets as tfds  # takes 0.3 s, which models in use do not need

        from blip_jax.data.serialization import parser

        self._name, self._source = f"{directory}, split {split}", source
        self._length = len(source)  # raises a ValueError for a slice that ends before it starts
        self.dataset_info, self.data_source = source.dataset_info, source.data_source
        features = self.dataset_info.features
        is_decoded = any(  # by TFDS
            isinstance(feature, tfds.features.Image) and name not in ENCODED_FIELDS
            for name, feature in features.items()
        )
        self._parse = None if is_decoded else parser(features)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Raises a UserError if the file of the record is damaged."""
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        try:
            record = self._parse(self.data_source[row]) if self._parse and row >= 0 else None
            return self._source[row] if record is None else record
        except Exception as error:  # TFDS and ArrayRecord raise many types for a damaged file
            raise self.damaged(row, error) from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def damaged(self, row: int, error: Exception) -> UserError:
        """Returns the error of a row that cannot be read."""
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = "its file is damaged or cut short: copy or make it again"
        if isinstance(error, OSError):
            advice = "check the storage, and rerun the same command"
        return UserError(f"{self._name}: row {row} cannot be read ({reason}); {advice}")


def open_dataset(directory: str, split: str, fields: Sequence[str] = ("key",)) -> Dataset:
    """Returns a dataset: `len`, and records by row as dicts of bytes and arrays.

    Images and clips stay encoded bytes.

    Args:
      directory: the folder of features.json, local or `gs://`, whose files are copied when read.
      split: a split's name, or a slice such as 'train[10:20]'.
      fields: that the records must have.

    Raises:
      UserError: there is no dataset in the directory, no such split or field, or files are missing.
    """
    import tensorflow_datasets as tfds

    from blip_jax.data.remote import RemoteDataSource

    check_scheme(directory)
    path = epath.Path(directory) / FEATURES
    if not path.exists():
        raise UserError(
            f"no dataset in {directory}: {FEATURES} is missing there; build one with "
            "`blip-jax prepare`"
        )
    check_feature_classes(directory)
    try:
        builder = tfds.builder_from_directory(str(directory))
        names = sorted(builder.info.splits)
        features = list(builder.info.features)
    except Exception as error:  # TFDS raises many types for a damaged directory
        raise UserError(f"dataset {directory} cannot be read: {error}".splitlines()[0]) from error
    if split.split("[")[0] not in names:
        raise UserError(f"dataset {directory} has no split {split!r}; it has {', '.join(names)}")
    for field in fields:
        if field not in features:
            raise UserError(
                f"dataset {directory} has no field {field!r}; it has {', '.join(features)}"
            )
    decoders = {name: tfds.decode.SkipDecoding() for name in ENCODED_FIELDS if name in features}
    try:
        if "://" in str(directory):
            source = RemoteDataSource(builder, split, decoders)
        else:
            source = builder.as_data_source(split, decoders=decoders)
    except Exception as error:
        message = f"split {split!r} of {directory} cannot be read: {error}".splitlines()[0]
        raise UserError(message) from error
    try:
        return Dataset(directory, split, source)
    except ValueError as error:  # the length is negative
        raise UserError(f"split {split!r} of {directory} ends before it starts") from error


def split_digest(directory: str, rows: Dataset, split: str) -> str:
    """Returns the digest of the files that hold a split; of a slice, of the whole split."""
    paths = rows.dataset_info.splits[split.partition("[")[0]].filepaths
    return folder_digest(directory, [FEATURES, *(path.name for path in paths)])


def check_feature_classes(directory: str) -> None:
    """Raises a UserError if features.json names a class that is not TFDS's own, at any depth."""
    path = epath.Path(directory) / FEATURES
    waiting = [read_json(path)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for field in _CLASS_FIELDS:
                name = value.get(field, FEATURE_CLASSES)
                if isinstance(name, str) and not name.startswith(FEATURE_CLASSES):
                    raise UserError(
                        f"{path} names the class {name!r}, which is not a feature of TFDS and "
                        "is not imported; write the dataset with TFDS's own features"
                    )
            if isinstance(nested := value.get("json"), str):  # older files: JSON in a string
                try:
                    waiting.append(json.loads(nested))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path} is damaged; copy or make it again") from error


def to_text(value) -> str:
    """Returns a text that TFDS read back as bytes; bytes that are not UTF-8 become U+FFFD."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def plain_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a record without its images or its clip, as plain values."""
    return {name: plain_value(x) for name, x in record.items() if name not in ENCODED_FIELDS}


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
