"""What a checkpoint knows of the images that it was trained on: datasets, splits, image digests.

It is stored as trained_on.json, in a workdir and in a Hugging Face folder, and as the entry
`trained_on` of `blip_jax` in a file of the original.
"""

import base64
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import read_json, write_json

FILE = "trained_on.json"
_NUMBERS = "<u8"  # of digests in the file, base64
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingDataset:
    """A dataset that a model was trained on, by itself or by the model that it started from.

    Attributes:
      dataset, split: folder, and split as in the mixture.
      digest: `folder_digest` of the dataset; "": unknown.
      images: number of records that were trained on; 0: unknown.
      image_digests: of their images, uint64 [N], sorted (data/image_digests.py); of a large
        dataset, of evenly spaced records. None: not stored.
    """

    dataset: str
    split: str
    digest: str = ""
    images: int = 0
    image_digests: np.ndarray | None = None
    complete: bool = False  # whether image_digests has all images

    @property
    def place(self) -> str:
        """Returns "FOLDER, split SPLIT", for messages."""
        return f"{self.dataset}, split {self.split}"

    def names(self) -> dict[str, Any]:
        """Returns dataset, split, digest and images as JSON values."""
        names = ("dataset", "split", "digest", "images")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Images of an evaluation that a model was trained on.

    Attributes:
      images: number of them; of two datasets that hold the same image it counts once.
      total: number of images of the evaluation.
      places: the datasets that they were trained on from.
    """

    images: int
    total: int
    places: tuple[str, ...]


def find_overlap(
    trained_on: Iterable[TrainingDataset],
    dataset: str,
    split: str,
    digest: str,
    image_digests: np.ndarray,
) -> Overlap:
    """Returns which images of an evaluation are among those of `trained_on`.

    An image is found by its digest. Where not all images of a dataset are stored, all images of an
    evaluation on this dataset and split count: the same by the dataset's digest, or by its path
    where that is not known.

    Args:
      dataset, split: of the evaluation.
      digest: `folder_digest` of the dataset.
      image_digests: uint64 [N], sorted, of the images to evaluate on.
    """
    found, places = np.zeros(len(image_digests), bool), []
    for entry in trained_on:
        own = np.zeros(len(image_digests), bool)
        if entry.image_digests is not None:
            own = np.isin(image_digests, entry.image_digests, assume_unique=True)
        is_dataset = entry.digest == digest if entry.digest else _same_path(entry.dataset, dataset)
        if not entry.complete and is_dataset and _split_name(entry.split) == _split_name(split):
            own[:] = True
        if own.any():
            places.append(entry.place)
        found |= own
    return Overlap(int(found.sum()), len(found), tuple(dict.fromkeys(places)))


def _split_name(split: str) -> str:
    return split.partition("[")[0]


def _same_path(first: str, second: str) -> bool:
    return os.path.abspath(first) == os.path.abspath(second)


def merge(*parts: Sequence[TrainingDataset] | None) -> tuple[TrainingDataset, ...]:
    """Returns the datasets of all parts, without those that are there already."""
    kept: list[TrainingDataset] = []
    for entry in (entry for part in parts for entry in part or ()):
        if not any(_equal(entry, other) for other in kept):
            kept.append(entry)
    return tuple(kept)


def _equal(first: TrainingDataset, second: TrainingDataset) -> bool:
    same = first.names() == second.names() and first.complete == second.complete
    if not same or (first.image_digests is None) != (second.image_digests is None):
        return False
    return first.image_digests is None or np.array_equal(first.image_digests, second.image_digests)


def to_json(trained_on: Iterable[TrainingDataset], public: bool = False) -> list[dict[str, Any]]:
    """Returns JSON values that `from_json` reads.

    Args:
      public: `public_name` for paths, for a checkpoint that is given to others.
    """
    values = []
    for entry in trained_on:
        value = entry.names() | {"complete": entry.complete}
        if public:
            value["dataset"] = public_name(entry.dataset)
        if entry.image_digests is not None:
            data = entry.image_digests.astype(_NUMBERS).tobytes()
            value["image_digests"] = base64.b64encode(data).decode()
        values.append(value)
    return values


def public_name(folder: str) -> str:
    """Returns the last part of a path; of TFDS's NAME/CONFIG/VERSION all three."""
    parts = [part for part in folder.split("/") if part]
    return "/".join(parts[-3:] if parts and _VERSION.fullmatch(parts[-1]) else parts[-1:])


def from_json(values: Any) -> tuple[TrainingDataset, ...]:
    """Returns the datasets of `to_json`, or of a checkpoint's metadata.

    Raises:
      ValueError: these are no such values.
    """
    if not isinstance(values, list | tuple):
        raise ValueError("expected a list")
    return tuple(_of_json(value) for value in values)


def _of_json(value: Any) -> TrainingDataset:
    if not isinstance(value, Mapping):
        raise ValueError("expected objects")
    known = {name: value.get(name, "") for name in ("dataset", "split", "digest")}
    images, stored = value.get("images", 0), value.get("image_digests")
    is_count = isinstance(images, int) and images >= 0
    if not all(isinstance(text, str) for text in known.values()) or not is_count:
        raise ValueError("expected dataset, split, digest and images")
    digests = None
    if stored is not None:
        digests = np.frombuffer(base64.b64decode(stored, validate=True), _NUMBERS).astype(np.uint64)
    complete = digests is not None and value.get("complete") is True
    return TrainingDataset(**known, images=images, image_digests=digests, complete=complete)


def write(folder: str | os.PathLike, trained_on: Iterable[TrainingDataset], public: bool = False):
    """Writes trained_on.json into a folder."""
    write_json(epath.Path(folder) / FILE, {"datasets": to_json(trained_on, public)})


def read(folder: str | os.PathLike) -> tuple[TrainingDataset, ...] | None:
    """Returns what trained_on.json of a folder says; None: there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        return None
    stored = read_json(path)
    try:
        return from_json(stored.get("datasets") if isinstance(stored, dict) else None)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); copy it again from where the model is"
        ) from error
