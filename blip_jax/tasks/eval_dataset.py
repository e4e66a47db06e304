"""The images of a split with their records, and how processes share the work on them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from blip_jax.data.pipeline import eval_batches
from blip_jax.models.batching import run_in_batches
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather

ROWS_PER_DEVICE = 128


@dataclasses.dataclass(frozen=True)
class EvalDataset:
    """The decodable images of a split; every process has all of them.

    Attributes:
      images: uint8 [N, S, S, 3].
      records: N dicts of the other fields of the dataset, "key" among them, as plain values.
    """

    images: np.ndarray
    records: list[Mapping[str, Any]]

    @classmethod
    def load(
        cls, dataset: str, split: str, image_size: int, limit: int | None = None
    ) -> "EvalDataset":
        """Reads and resizes the images of a split.

        Args:
          limit: only this many images, from the start.

        Raises:
          UserError: there is no such dataset or split, or no image of it decodes.
        """
        images, records = [], []
        for batch in eval_batches(dataset, split, cls.batch_size(), image_size, limit):
            valid = batch["valid"][: len(batch["records"])]
            images.append(batch["image"][: len(valid)][valid])
            usable = zip(batch["records"], valid, strict=True)
            records += [record for record, good in usable if good]
        if not records:
            raise UserError(f"no image of {dataset}, split {split}, can be decoded")
        return cls(np.concatenate(images), records)

    @staticmethod
    def batch_size() -> int:
        """Rows of a batch over all local devices."""
        return ROWS_PER_DEVICE * jax.local_device_count()

    def run(self, function: Callable, *arrays: np.ndarray, title: str = "") -> list[np.ndarray]:
        """Returns `function` of arrays [R, ...] in batches, on every process all rows."""
        return run_in_batches(function, self.batch_size(), *arrays, title=title)

    def share(self, function: Callable, *arrays: np.ndarray, title: str = "") -> list[np.ndarray]:
        """Returns as `run`; each process computes its part of the rows, and all get the whole.

        Parts have one length: the last ones repeat the last row.
        """
        total = len(arrays[0])
        local = -(-total // jax.process_count())
        rows = np.minimum(np.arange(local) + jax.process_index() * local, total - 1)
        results = self.run(function, *(array[rows] for array in arrays), title=title)
        return [np.concatenate(all_gather(x))[:total] for x in results]
