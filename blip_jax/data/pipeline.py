"""Grain pipelines: batches for training, mixed and augmented, and in order for evaluation.

Axes: B images a batch, S image side, L text tokens.

Everything about a training batch follows from (seed, its number): which records, which of their
texts, how they are augmented. So a run resumes by number alone, on any number of processes.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from blip_jax.data.datasets import open_dataset, plain_fields
from blip_jax.data.images import ImageError
from blip_jax.data.mixture import Component, RecordSource, load_mixture
from blip_jax.data.pixels import RecordPixels
from blip_jax.data.video import VideoError
from blip_jax.runtime.errors import UserError

# What becomes of a record; reasons that are not listed are counted as the last.
SKIP_REASONS = (
    "ok", "undecodable image", "empty text", "missing field", "undecodable video", "other reason",
)  # fmt: skip


class InvalidRecord(Exception):
    """A record that cannot be used; it is counted by its reason if that is in SKIP_REASONS."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class ExampleMaker(Protocol):
    """What training batches are made by: the host side of a task (tasks/base.py)."""

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]: ...

    def empty_example(self) -> dict[str, Any]: ...

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]: ...


def crc32_hash(text: str) -> int:
    """Returns a number from 0 to 2**31 - 1 that is the same in every process and run."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


class _Example:
    """Record and generator to one example; a record that cannot be used gets a reason."""

    def __init__(self, task: ExampleMaker):
        self._task = task

    def __call__(self, record: dict, rng: np.random.Generator) -> tuple[dict, int]:
        try:
            return self._task.example(record, rng), 0
        except InvalidRecord as error:
            known = error.reason in SKIP_REASONS[1:]
            reason = error.reason if known else SKIP_REASONS[-1]
            return self._task.empty_example(), SKIP_REASONS.index(reason)


class _Collate:
    """List of examples with their reasons to a batch of arrays."""

    def __init__(self, task: ExampleMaker):
        self._task = task

    def __call__(self, examples: Sequence[tuple[dict, int]]) -> dict[str, np.ndarray]:
        reason = np.array([reason for _, reason in examples], np.int32)
        batch = self._task.collate([example for example, _ in examples])
        return {**batch, "valid": reason == 0, "skip_reason": reason}


class _LocalRows:
    """Some rows of every global batch, batch after batch."""

    def __init__(self, examples, batch_size: int, rows: Sequence[int]):
        self._examples, self._batch_size, self._rows = examples, batch_size, rows

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int):
        batch, row = divmod(index, len(self._rows))
        return self._examples[batch * self._batch_size + int(self._rows[row])]


def train_batches(
    mixture: str | Sequence[Component],
    task: ExampleMaker,
    batch_size: int,
    *,
    rows: Sequence[int] | None = None,
    seed: int = 0,
    start: int = 0,
    num_threads: int = 2,
    prefetch: int = 8,
) -> grain.DatasetIterator:
    """Returns an endless iterator of training batches, or of a process's rows of them.

    Args:
      mixture: a mixture file, or its components.
      task: makes examples of records and batches of examples.
      batch_size: B, of all processes together.
      rows: those of every global batch that are needed here (train/mesh.py, `local_rows`); None:
        all.
      seed: of the order, the choice among texts, and augmentation.
      start: number of the first batch.
      num_threads, prefetch: reading threads, and batches made ahead of time.

    Returns:
      Iterator of dicts, with b = len(rows): what `task.collate` makes, 'valid' bool [b], and
      'skip_reason' int32 [b], index into SKIP_REASONS. It has get_state and set_state; for a batch
      number, set_state({'next_index': number}).

    Raises:
      UserError: something named by the mixture is missing, a dataset lacks a field that the task
        needs (its `record_fields`), or batch_size is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    rows = range(batch_size) if rows is None else rows
    components = load_mixture(mixture) if isinstance(mixture, str) else list(mixture)
    datasets, weights = [], []
    for number, component in enumerate(components):
        if component.weight:
            source = RecordSource(component, getattr(task, "record_fields", ("key",)))
            datasets.append(_shuffled_repeat(source, seed, number))
            weights.append(float(component.weight))
    if not datasets:
        raise UserError("the mixture has no component with a weight above 0")
    mixed = grain.MapDataset.mix(datasets, weights=weights)
    # Before the split among processes, so that randomness depends on the row of the global batch.
    examples = mixed.random_map(_Example(task), seed=seed)
    local = grain.MapDataset.source(_LocalRows(examples, batch_size, rows))
    batches = local.batch(len(rows), drop_remainder=True, batch_fn=_Collate(task))
    iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))
    if start:
        iterator.set_state({"next_index": start})
    return iterator


def _shuffled_repeat(source: RecordSource, seed: int, number: int) -> grain.MapDataset:
    # Grain shuffles epoch e by seed + e, so the seeds of components must differ by much, or one
    # would repeat another's order an epoch later.
    component_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return grain.MapDataset.source(source).shuffle(seed=component_seed).repeat()


class _Evaluate:
    def __init__(self, rows, pixels: RecordPixels):
        self._rows, self._pixels = rows, pixels

    def __call__(self, index: int) -> dict:
        record = self._rows[index]
        try:
            image, error = self._pixels.read(record), ""
        except (ImageError, VideoError) as reason:
            image, error = None, str(reason) or type(reason).__name__
        return {"image": image, "index": index, "error": error, "record": plain_fields(record)}


def eval_batches(
    directory: str,
    split: str,
    batch_size: int,
    image_size: int,
    limit: int | None = None,
    exif_orientation: bool = True,
    num_frames: int = 0,
) -> Iterator[dict]:
    """Yields a dataset's images or clips once, in order, resized and nothing else.

    Args:
      directory, split: as for `datasets.open_dataset`.
      batch_size: B; the last batch is filled up with rows that are not valid.
      image_size: S, pixels.
      limit: only this many images, from the start.
      exif_orientation: turn images upright; see `images.decode`.
      num_frames: F, frames of a clip; 0: the dataset must not have clips.

    Yields:
      'image' uint8 [B, S, S, 3], of pairs [B, 2, S, S, 3], of clips [B, F, S, S, 3];
      'index' int32 [B], the row in the split, -1 for filling;
      'valid' bool [B], False for filling and for what does not decode (black here);
      'errors' list of why a record does not decode, "" if it does, none for filling;
      'records' list of the records' other fields as plain values, none for filling.

    Raises:
      UserError: there is no such dataset or split, or it has clips.
    """
    rows = open_dataset(directory, split)
    count = len(rows) if limit is None else min(limit, len(rows))
    features, name = rows.dataset_info.features, f"{directory}, split {split}"
    pixels = RecordPixels.of(features, image_size, num_frames, exif_orientation, name)
    loaded = grain.MapDataset.range(count).map(_Evaluate(rows, pixels))
    batches = loaded.batch(batch_size, batch_fn=list)
    for examples in batches.to_iter_dataset(grain.ReadOptions(2, 8)):
        filling = batch_size - len(examples)
        image = np.zeros((batch_size, *pixels.shape), np.uint8)
        for row, example in enumerate(examples):
            if not example["error"]:
                image[row] = example["image"]
        yield {
            "image": image,
            "index": np.array([e["index"] for e in examples] + [-1] * filling, np.int32),
            "valid": np.array([not e["error"] for e in examples] + [False] * filling),
            "errors": [e["error"] for e in examples],
            "records": [e["record"] for e in examples],
        }
