"""The images of a split with their records, and how processes share the work on them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from blip_jax.data.datasets import open_dataset
from blip_jax.data.pipeline import eval_batches
from blip_jax.data.pixels import RecordPixels
from blip_jax.models.batching import run_in_batches
from blip_jax.runtime.errors import DIVERGED, UserError
from blip_jax.runtime.processes import all_gather
from blip_jax.runtime.progress import Progress
from blip_jax.runtime.terminal import print_note
from blip_jax.tasks.image_blocks import run_by_image
from blip_jax.tasks.unfinished import StoredResults, UnfinishedWork

ROWS_PER_DEVICE = 128  # images; of clips as many as have this many frames
# Decoded images of up to this size stay in memory; those of a larger split are decoded when used.
MAX_IMAGE_BYTES = 2**30
NAMED = 10  # of the records that do not decode, those that are named


class LazyImages:
    """uint8 [N, S, S, 3], decoded when rows are read; indexed by an array of rows.

    Of pairs of images it is [N, 2, S, S, 3], of clips [N, F, S, S, 3].

    Args:
      dataset, split: of which all `rows` can be decoded.
      pixels: how a record is read.
    """

    def __init__(self, dataset: str, split: str, rows: np.ndarray, pixels: RecordPixels):
        self._place, self._rows, self._pixels = (dataset, split), rows, pixels

    @functools.cached_property
    def _source(self) -> Any:
        return open_dataset(*self._place)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        def load(row: int) -> np.ndarray:
            return self._pixels.read(self._source[row])

        # Each once: the questions about an image are neighbours.
        different, places = np.unique(self._rows[rows], return_inverse=True)
        with ThreadPoolExecutor(4) as pool:
            return np.stack(list(pool.map(load, different.tolist())))[places]


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
    """The decodable images or clips of a split; every process has all of them.

    Attributes:
      images: uint8 [N, S, S, 3], of pairs [N, 2, S, S, 3], of clips [N, F, S, S, 3]; or as
        `LazyImages` where they would take much memory.
      records: N dicts of the other fields of the dataset, "key" among them, as plain values.
      pixels: what a record holds, and how it was read.
      name: folder and split, for messages.
      unfinished: where long work on this dataset with one model stores what it has done so far, by
        which it is resumed.
    """

    images: np.ndarray | LazyImages
    records: list[Mapping[str, Any]]
    pixels: RecordPixels
    name: str = "the dataset"
    unfinished: UnfinishedWork = dataclasses.field(default_factory=UnfinishedWork)

    @classmethod
    def load(
        cls,
        dataset: str,
        split: str,
        image_size: int,
        limit: int | None = None,
        exif_orientation: bool = True,
        num_frames: int = 0,
    ) -> "EvalDataset":
        """Reads the records of a split, and resizes its images.

        What does not decode is left out, and named in a line on stderr.

        Args:
          limit: only this many images, from the start.
          exif_orientation: turn images upright; see `images.decode`.
          num_frames: F, frames of a clip; 0: the task is not one of clips.

        Raises:
          UserError: there is no such dataset or split, it has clips where the task has images, or
            nothing of it decodes.
        """
        name = f"{dataset}, split {split}"
        features = open_dataset(dataset, split).dataset_info.features
        pixels = RecordPixels.of(features, image_size, num_frames, exif_orientation, name)
        in_memory = MAX_IMAGE_BYTES // int(np.prod(pixels.shape))
        images, records, rows, errors = [], [], [], []
        batches = eval_batches(
            dataset, split, _batch_size(pixels), image_size, limit, exif_orientation, num_frames
        )
        for batch in batches:
            valid = batch["valid"][: len(batch["records"])]
            for record, error in zip(batch["records"], batch["errors"], strict=True):
                if error:
                    errors.append(f"{record['key']} ({error})")
                else:
                    records.append(record)
            rows.append(batch["index"][: len(valid)][valid])
            images.append(batch["image"][: len(valid)][valid])
            if len(records) > in_memory:
                images.clear()
        what = "clip" if pixels.content == "clip" else "image"
        if errors and jax.process_index() == 0:
            print_note(_left_out(what, errors, len(records) + len(errors), name))
        if not records:
            raise UserError(f"no {what} of {name}, can be decoded")
        if len(records) <= in_memory:
            return cls(np.concatenate(images), records, pixels, name)
        return cls(LazyImages(dataset, split, np.concatenate(rows), pixels), records, pixels, name)

    @property
    def content(self) -> str:
        """Returns what a record has: "image", "pair" or "clip"."""
        return self.pixels.content

    def check_clips(self) -> None:
        """Raises a UserError unless records have clips."""
        if self.content != "clip":
            raise UserError(f"no clip in {self.name}; evaluate on a dataset with the field video")

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

    @property
    def batch_size(self) -> int:
        """Returns the rows of a batch over all local devices."""
        return _batch_size(self.pixels)

    def run(self, function: Callable, *arrays: Any, title: str = "") -> list[np.ndarray]:
        """Returns `function` of arrays [R, ...] in batches, on every process all rows.

        Raises:
          UserError: a result is NaN.
        """
        results = run_in_batches(function, self.batch_size, *arrays, title=title)
        self._check_results(results, title)
        return results

    def share(self, function: Callable, *arrays: Any, title: str = "") -> list[np.ndarray]:
        """Returns as `run`; each process computes its part of the rows, and all get the whole.

        With `unfinished` a process stores the results of its batches, and continues with those that
        are stored already.

        Raises:
          UserError: a result is NaN.
        """
        rows, size = local_rows(len(arrays[0])), self.batch_size
        decides = (x for x in arrays if isinstance(x, np.ndarray) and x is not self.images)
        stored = self.unfinished.results(len(rows), [title, size], *decides)

        def batches() -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
            for start in range(0, len(rows), size):
                here = np.arange(start, min(start + size, len(rows)))
                if not stored.done[here].all():
                    parts = (RowsOf(array, rows[here]) for array in arrays)
                    yield here, run_in_batches(function, size, *parts)

        return self._completed(stored, batches(), len(arrays[0]), title)

    def share_by_image(
        self,
        encode: Callable,
        function: Callable,
        image_index: np.ndarray,
        *arrays: Any,
        title: str,
        most: tuple[int, int] = (0, 0),
        settings: Any = None,
    ) -> list[np.ndarray]:
        """Returns `function` of encoded images and arrays of their texts [P, ...], as `share`.

        A process encodes each of its images once. Functions are those of `run_by_image`.

        Args:
          image_index: int [P], sorted: the image that each text is about.
          most: the most images of a block, and texts of a step, of a device; 0: of a batch.
          settings: JSON values that decide the results besides arrays, model, dataset and config.

        Raises:
          UserError: a result is NaN.
        """
        rows, size = local_rows(len(image_index)), self.batch_size // jax.local_device_count()
        most = most[0] or size, most[1] or size
        decides = (x for x in (image_index, *arrays) if isinstance(x, np.ndarray))
        stored = self.unfinished.results(len(rows), [title, most, settings], *decides)
        blocks = run_by_image(
            encode, function, self.images, image_index[rows], [RowsOf(x, rows) for x in arrays],
            most=most, is_done=lambda pairs: stored.done[pairs].all(),
        )  # fmt: skip
        return self._completed(stored, blocks, len(image_index), title)

    def _completed(
        self,
        stored: StoredResults,
        found: Iterator[tuple[np.ndarray, list[np.ndarray]]],
        total: int,
        title: str,
    ) -> list[np.ndarray]:
        """Adds (rows, results) to the stored ones, and returns those of all processes.

        Each process has the results of its `local_rows`.
        """
        done, rows = int(stored.done.sum()), len(stored.done)
        shown = bool(title) and jax.process_index() == 0
        with Progress(title, rows, title.removesuffix("s"), done, enabled=shown) as progress:
            for here, results in found:
                stored.add(here, results)
                progress.update(len(here))
                stored.save()
        if done < rows:
            stored.save(now=True)
        results = [np.concatenate(all_gather(x))[:total] for x in stored.arrays]
        self._check_results(results, title)  # not before: all processes stop, or none
        return results

    def _check_results(self, results: list[np.ndarray], title: str) -> None:
        bad = np.zeros(len(results[0]), bool)
        for result in results:
            if np.issubdtype(result.dtype, np.floating):
                bad |= np.isnan(result.reshape(len(result), -1)).any(axis=1)
        if bad.any():
            raise UserError(
                f"the model gives NaN for {bad.sum()} of {len(bad)} {title or 'results'} of "
                f"{self.name}; {DIVERGED}"
            )


def local_rows(total: int) -> np.ndarray:
    """Returns which of `total` rows this process computes, int [ceil(total / processes)].

    All processes have as many: the last ones repeat the last row.
    """
    local = -(-total // jax.process_count())
    return np.minimum(np.arange(local) + jax.process_index() * local, total - 1)


def _batch_size(pixels: RecordPixels) -> int:
    frames = pixels.num_frames if pixels.content == "clip" else 1
    return max(1, ROWS_PER_DEVICE // frames) * jax.local_device_count()


def _left_out(what: str, errors: list[str], total: int, name: str) -> str:
    """Returns a line that names the records which do not decode."""
    named = ", ".join(errors[:NAMED])
    more = f" and {len(errors) - NAMED} more" if len(errors) > NAMED else ""
    count = f"{len(errors)} of {total} {what}s"
    return f"skipped {count} of {name}, which cannot be decoded: {named}{more}"
