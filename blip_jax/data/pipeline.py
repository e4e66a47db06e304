"""Grain pipelines: batches for training, mixed and augmented, and in order for evaluation.

Axes: B images a batch, S image side, L text tokens.

Everything about a training batch follows from (seed, its number): which records, which of their
texts, how they are augmented. So a run resumes by number alone, on any number of processes.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from blip_jax.data.augment import TrainTransform
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.images import ImageError, decode, resize
from blip_jax.data.mixture import Component, RecordSource, load_mixture
from blip_jax.data.text import clean_caption
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.errors import UserError

SKIP_REASONS = ("ok", "undecodable image", "empty text")  # what the batch's 'reason' counts


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """What a training batch is.

    Attributes:
      batch_size: B over all processes.
      image_size: S, pixels.
      max_length: L, tokens; longer texts are cut.
      seed: of order, choice among texts, and augmentation.
      prompt: put before every text, as it stands.
      transform: augmentation; None is BLIP's pre-training (`TrainTransform(image_size)`).
      num_threads, prefetch: reading threads, and batches made ahead of time.

    Raises:
      UserError: the transform makes another image size.
    """

    batch_size: int
    image_size: int
    max_length: int = 30
    seed: int = 0
    prompt: str = ""
    transform: TrainTransform | None = None
    num_threads: int = 2
    prefetch: int = 8

    def __post_init__(self):
        if self.transform is None:
            object.__setattr__(self, "transform", TrainTransform(self.image_size))
        if self.transform.size != self.image_size:
            raise UserError(
                f"image_size is {self.image_size}, the transform makes {self.transform.size}"
            )


def crc32_hash(text: str) -> int:
    """Returns a number from 0 to 2**31 - 1 that is the same in every process and run."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


class _Load:
    """Record and generator to one example; a record that cannot be used gets a reason."""

    def __init__(self, transform: TrainTransform):
        self._transform = transform

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        texts = record["texts"]
        text = clean_caption(texts[int(rng.integers(len(texts)))]) if texts else ""
        size, reason = self._transform.size, 0
        try:
            image = decode(record["image"])
        except ImageError:
            reason = 1
        else:
            image, text = self._transform.pair(image, text, rng)
            reason = 0 if text else 2
        if reason:
            image, text = np.zeros((size, size, 3), np.uint8), ""
        return {
            "image": image,
            "text": text,
            "group": crc32_hash(record["key"]),
            "text_group": crc32_hash(text),
            "reason": reason,
        }


class _Collate:
    """List of examples to a batch of arrays."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, max_length: int):
        self._tokenizer, self._prompt, self._max_length = tokenizer, prompt, max_length

    def __call__(self, examples: Sequence[dict]) -> dict[str, np.ndarray]:
        texts = [self._prompt + e["text"] if e["text"] else "" for e in examples]
        ids, mask = self._tokenizer.encode(texts, self._max_length)
        reason = np.array([e["reason"] for e in examples], np.int32)
        return {
            "image": np.stack([e["image"] for e in examples]),
            "ids": ids,
            "mask": mask,
            "group": np.array([e["group"] for e in examples], np.int32),
            "text_group": np.array([e["text_group"] for e in examples], np.int32),
            "valid": reason == 0,
            "reason": reason,
        }


class _LocalRows:
    """Some rows of every global batch, batch after batch."""

    def __init__(self, examples, batch_size: int, rows: Sequence[int]):
        self._examples, self._batch_size, self._rows = examples, batch_size, rows

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int):
        batch, place = divmod(index, len(self._rows))
        return self._examples[batch * self._batch_size + int(self._rows[place])]


def train_batches(
    mixture: str | Sequence[Component],
    tokenizer: Tokenizer,
    *,
    start: int = 0,
    rows: Sequence[int] | None = None,
    **settings,
) -> grain.DatasetIterator:
    """Returns an endless iterator of training batches, or of a process's rows of them.

    Args:
      mixture: a mixture file, or its components.
      tokenizer: turns cleaned texts into ids.
      start: number of the first batch.
      rows: of every global batch, those wanted (train/mesh.py, `own_rows`); None: all.
      **settings: fields of `BatchSettings`; batch_size and image_size must be given.

    Returns:
      Iterator of dicts, with b = len(rows): 'image' uint8 [b, S, S, 3];
      'ids' int32 [b, L]; 'mask' bool [b, L]; 'group' int32 [b], the same for texts of one image
      (by its key); 'text_group' int32 [b], the same for texts that are equal once cleaned;
      'valid' bool [b]; 'reason' int32 [b], index into SKIP_REASONS. A row that is not valid has a
      black image and the ids of [CLS] [SEP]. It has get_state and set_state; for a batch number,
      set_state({'next_index': number}).

    Raises:
      UserError: something named by the mixture is missing, or batch_size is below 1.
    """
    settings = BatchSettings(**settings)
    if settings.batch_size < 1:
        raise UserError(f"batch_size is {settings.batch_size}; it must be 1 or more")
    rows = range(settings.batch_size) if rows is None else rows
    components = load_mixture(mixture) if isinstance(mixture, str) else list(mixture)
    datasets, weights = [], []
    for number, component in enumerate(components):
        if component.weight:
            datasets.append(_shuffled_repeat(component, settings.seed, number))
            weights.append(float(component.weight))
    if not datasets:
        raise UserError("the mixture has no component with a weight above 0")
    mixed = grain.MapDataset.mix(datasets, weights=weights)
    # Before the split among processes: chance then depends on the place in the global batch.
    examples = mixed.random_map(_Load(settings.transform), seed=settings.seed)
    own = _LocalRows(examples, settings.batch_size, rows)
    collate = _Collate(tokenizer, settings.prompt, settings.max_length)
    batches = grain.MapDataset.source(own).batch(len(rows), drop_remainder=True, batch_fn=collate)
    options = grain.ReadOptions(settings.num_threads, settings.prefetch)
    iterator = iter(batches.to_iter_dataset(options))
    if start:
        iterator.set_state({"next_index": start})
    return iterator


def _shuffled_repeat(component: Component, seed: int, number: int) -> grain.MapDataset:
    # Grain shuffles epoch e by seed + e: the seeds of components must differ by much, or one
    # would repeat another's order an epoch later.
    component_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return grain.MapDataset.source(RecordSource(component)).shuffle(seed=component_seed).repeat()


class _Evaluate:
    def __init__(self, rows, image_size: int):
        self._rows, self._image_size = rows, image_size

    def __call__(self, index: int) -> dict:
        record = self._rows[index]
        size = self._image_size
        try:
            image, valid = resize(decode(record["image"]), size), True
        except ImageError:
            image, valid = np.zeros((size, size, 3), np.uint8), False
        kept = {
            "key": to_text(record["key"]),
            "texts": [to_text(text) for text in record.get("texts", ())],
            "truth": to_text(record.get("truth", "")),
        }
        return {"image": image, "index": index, "valid": valid, "record": kept}


def eval_batches(
    directory: str, split: str, batch_size: int, image_size: int, limit: int | None = None
) -> Iterator[dict]:
    """Yields a dataset's images once, in order, resized and nothing else.

    Args:
      directory, split: as for `sources.open_dataset`.
      batch_size: B; the last batch is filled up with rows that are not valid.
      image_size: S, pixels.
      limit: only so many images from the start.

    Yields:
      'image' uint8 [B, S, S, 3]; 'index' int32 [B], the row in the split, -1 for filling;
      'valid' bool [B], False for filling and for images that do not decode (black here);
      'records' list of {'key': str, 'texts': list[str], 'truth': str}, none for filling.

    Raises:
      UserError: there is no such dataset or split.
    """
    rows = open_dataset(directory, split)
    count = len(rows) if limit is None else min(limit, len(rows))
    loaded = grain.MapDataset.range(count).map(_Evaluate(rows, image_size))
    batches = loaded.batch(batch_size, batch_fn=list)
    for examples in batches.to_iter_dataset(grain.ReadOptions(2, 8)):
        filling = batch_size - len(examples)
        image = np.stack([e["image"] for e in examples])
        yield {
            "image": np.pad(image, ((0, filling), (0, 0), (0, 0), (0, 0))),
            "index": np.array([e["index"] for e in examples] + [-1] * filling, np.int32),
            "valid": np.array([e["valid"] for e in examples] + [False] * filling),
            "records": [e["record"] for e in examples],
        }
