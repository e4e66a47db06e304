"""The images of a split with their records, and how processes share the work on them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from blip_jax.data.datasets import open_dataset
from blip_jax.data.images import record_pixels
from blip_jax.data.pipeline import eval_batches
from blip_jax.models.batching import run_in_batches
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather

ROWS_PER_DEVICE = 128
# Decoded images of up to this size stay in memory; those of a larger split are decoded when used.
MAX_IMAGE_BYTES = 2**30


class LazyImages:
    """uint8 [N, S, S, 3], decoded when rows are read; indexed by an array of rows.

    Of pairs of images it is [N, 2, S, S, 3].

    Args:
      dataset, split: of which all `rows` can be decoded.
      image_size: S.
      exif_orientation: see `images.decode`.
    """

    def __init__(
        self, dataset: str, split: str, rows: np.ndarray, image_size: int, exif_orientation: bool
    ):
        self._place, self._rows, self._image_size = (dataset, split), rows, image_size
        self._exif_orientation = exif_orientation

    @functools.cached_property
    def _source(self) -> Any:
        return open_dataset(*self._place)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        def load(row: int) -> np.ndarray:
            return record_pixels(self._source[row], self._image_size, self._exif_orientation)

        with ThreadPoolExecutor(4) as pool:
            return np.stack(list(pool.map(load, self._rows[rows].tolist())))


class RowsOf:
    """Some rows of an array, read when they are indexed."""

    def __init__(self, array: Any, rows: np.ndarray):
        self._array, self._rows = array, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self._array[self._rows[rows]]


@dataclasses.dataclass(frozen=True)
class EvalDataset:
    """The decodable images of a split; every process has all of them.

    Attributes:
      images: uint8 [N, S, S, 3], of pairs [N, 2, S, S, 3]; or as `LazyImages` where they would
        take much memory.
      records: N dicts of the other fields of the dataset, "key" among them, as plain values.
      name: folder and split, for messages.
      unfinished: folder for what long work on this dataset with one model has done so far, by which
        it is resumed; "": none.
    """

    images: np.ndarray | LazyImages
    records: list[Mapping[str, Any]]
    name: str = "the dataset"
    unfinished: str = ""

    @classmethod
    def load(
        cls,
        dataset: str,
        split: str,
        image_size: int,
        limit: int | None = None,
        exif_orientation: bool = True,
    ) -> "EvalDataset":
        """Reads the records of a split, and resizes its images.

        Args:
          limit: only this many images, from the start.
          exif_orientation: turn images upright; see `images.decode`.

        Raises:
          UserError: there is no such dataset or split, or no image of it decodes.
        """
        images, records, rows, name = [], [], [], f"{dataset}, split {split}"
        in_memory = MAX_IMAGE_BYTES // (3 * image_size**2)
        batches = eval_batches(
            dataset, split, cls.batch_size(), image_size, limit, exif_orientation
        )
        for batch in batches:
            valid = batch["valid"][: len(batch["records"])]
            usable = zip(batch["records"], valid, strict=True)
            records += [record for record, good in usable if good]
            rows.append(batch["index"][: len(valid)][valid])
            images.append(batch["image"][: len(valid)][valid])
            if len(records) > in_memory:
                images.clear()
        if not records:
            raise UserError(f"no image of {name}, can be decoded")
        if len(records) <= in_memory:
            return cls(np.concatenate(images), records, name)
        images = LazyImages(dataset, split, np.concatenate(rows), image_size, exif_orientation)
        return cls(images, records, name)

    @property
    def has_pairs(self) -> bool:
        """Returns whether a record has two images."""
        return self.images[np.array([0])].ndim == 5

    def entries(
        self, of_record: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """Returns the row of each question, or statement …, and itself, of all records.

        Args:
          of_record: lists those of a record, as `fields.questions_of` does.
        """
        found = [
            (row, entry) for row, record in enumerate(self.records) for entry in of_record(record)
        ]
        return [row for row, _ in found], [entry for _, entry in found]

    def check_texts(self) -> None:
        """Raises a UserError if no image has a text."""
        if not any(record.get("texts") for record in self.records):
            raise UserError(f"no text in {self.name}; evaluate on images with texts")

    @staticmethod
    def batch_size() -> int:
        """Returns the rows of a batch over all local devices."""
        return ROWS_PER_DEVICE * jax.local_device_count()

    def run(self, function: Callable, *arrays: Any, title: str = "") -> list[np.ndarray]:
        """Returns `function` of arrays [R, ...] in batches, on every process all rows."""
        return run_in_batches(function, self.batch_size(), *arrays, title=title)

    def share(self, function: Callable, *arrays: Any, title: str = "") -> list[np.ndarray]:
        """Returns as `run`; each process computes its part of the rows, and all get the whole.

        Parts have one length: the last ones repeat the last row.
        """
        total = len(arrays[0])
        local = -(-total // jax.process_count())
        rows = np.minimum(np.arange(local) + jax.process_index() * local, total - 1)
        results = self.run(function, *(RowsOf(array, rows) for array in arrays), title=title)
        return [np.concatenate(all_gather(x))[:total] for x in results]
