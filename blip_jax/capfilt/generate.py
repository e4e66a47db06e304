"""Captions and scores batches of decoded images; three batches are in flight at any time.

D local devices, b images a device, S pixels a side, G texts an image, T tokens, F filters.

Plug-ins run on the host, while the devices work on what was dispatched before.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from blip_jax.capfilt.plugins import Plugin
from blip_jax.data.pipeline import crc32_hash
from blip_jax.data.text import has_words
from blip_jax.decoding import Decoding
from blip_jax.models import Model
from blip_jax.models.functions import captioner, example_keys, match_function, prompt_tokens
from blip_jax.runtime.errors import UserError

TEXTS_PER_CALL = 8  # largest number of texts of an image that one call scores
LENGTH_MULTIPLE = 8  # T is a multiple of it, so that few programs are compiled


@dataclasses.dataclass
class BatchInFlight:
    """Images and the results that the devices are computing for them.

    Attributes:
      examples: {'key', 'status', 'texts': entries, 'image': {S: uint8 [S, S, 3]}}, and for
        plug-ins 'picture': uint8 [H, W, 3]. Rows get 'extra_scores': float32 [E].
      size: D * b; fewer examples are padded with copies of the last one.
      captions: for each model that captions, the result of its dispatched call.
      plugin_captions: for each plug-in that captions, the captions of each decoded image.
      scores: (index of the filter, index of the first text, result of the dispatched call).
    """

    examples: list[dict]
    size: int
    captions: list[Any] = dataclasses.field(default_factory=list)
    plugin_captions: dict[str, list[list[str]]] = dataclasses.field(default_factory=dict)
    scores: list[tuple[int, int, Any]] = dataclasses.field(default_factory=list)

    def pad(self, values: Sequence) -> list:
        """Returns one value for each of `size` rows: the last of `values` is repeated."""
        return [*values, *[values[-1]] * (self.size - len(values))]

    def images(self, size: int) -> np.ndarray:
        """Returns the images, uint8 [D * b, S, S, 3]."""
        return np.stack(self.pad([example["image"][size] for example in self.examples]))

    def decoded(self) -> Iterator[tuple[int, dict]]:
        """Yields index and example of the images that could be decoded."""
        return ((i, x) for i, x in enumerate(self.examples) if x["status"] == "ok")

    def pictures(self) -> tuple[list[str], list[np.ndarray]]:
        """Returns the keys of the images that could be decoded, and their pictures."""
        found = [example for _, example in self.decoded()]
        return [x["key"] for x in found], [x["picture"] for x in found]


class CaptionScorer:
    """Captions images with every captioner and scores all their texts with every filter.

    Args:
      captioners, filters: models and plug-ins by name.
      decodings: how each captioner generates; each gives `num_captions` texts.
      size: D * b, images in a batch.
      seed: of sampling.
      extra_scores: plug-ins by name.

    Attributes:
      sizes: sides S of the images that the models need.
      needs_pictures: whether there are plug-ins.
    """

    def __init__(
        self,
        captioners: Mapping[str, Model | Plugin],
        filters: Mapping[str, Model | Plugin],
        decodings: Sequence[Decoding],
        size: int,
        seed: int,
        extra_scores: Mapping[str, Plugin] = MappingProxyType({}),
    ):
        self.captioners, self._caption_plugins = _models_and_plugins(captioners)
        matching, self._filter_plugins = _models_and_plugins(filters)
        self.filters, self.extra_scores = list(filters), extra_scores
        self.decodings, self.size, self.seed = decodings, size, seed
        self._write = [captioner(model, decodings) for model in self.captioners.values()]
        self._match = {
            self.filters.index(name): (model, match_function(model))
            for name, model in matching.items()
        }
        self.sizes = {x.image_size for x in (*self.captioners.values(), *matching.values())}
        plugins = self._caption_plugins, self._filter_plugins, extra_scores
        self.needs_pictures = any(plugins)

    def rows(self, batches: Iterable[list[dict]]) -> Iterator[list[dict]]:
        """Yields the finished rows of each batch of at most `size` examples (`BatchInFlight`).

        Three batches are in flight: while the devices caption one, the captions of the batch before
        are decoded and dispatched to be scored, and the rows of the one before that are made.
        """
        captioned = scored = None
        for examples in itertools.chain(batches, (None, None)):
            dispatched = None
            if examples is not None:
                dispatched = self._dispatch_captions(BatchInFlight(examples, self.size))
            if captioned is not None:
                self._dispatch_scores(captioned)
            if scored is not None:
                yield self._collect_rows(scored)
            captioned, scored = dispatched, captioned

    def _dispatch_captions(self, batch: BatchInFlight) -> BatchInFlight:
        """Starts captioning."""
        hashes = np.array(batch.pad([crc32_hash(x["key"]) for x in batch.examples]))
        number = 0  # of the text; its random key depends on this and on its image
        for model, write in zip(self.captioners.values(), self._write, strict=True):
            keys = []
            for decoding in self.decodings:
                numbers = range(number, number + decoding.num_captions)
                keys.append(jnp.stack([example_keys(self.seed, hashes, n) for n in numbers], 1))
                number += decoding.num_captions
            batch.captions.append(write.dispatch(batch.images(model.image_size), keys))
        self._run_plugins(batch)
        return batch

    def _run_plugins(self, batch: BatchInFlight) -> None:
        """Keeps the captions of plug-ins, and adds the extra scores to the examples."""
        for example in batch.examples:
            example["extra_scores"] = np.full(len(self.extra_scores), np.nan, np.float32)
        if not self.needs_pictures:
            return
        keys, pictures = batch.pictures()
        if not keys:
            return
        for name, plugin in self._caption_plugins.items():
            batch.plugin_captions[name] = plugin.captions(keys, pictures)
        for number, plugin in enumerate(self.extra_scores.values()):
            scores = plugin.image_scores(keys, pictures)
            for (_, example), score in zip(batch.decoded(), scores, strict=True):
                example["extra_scores"][number] = score

    def _dispatch_scores(self, batch: BatchInFlight) -> None:
        """Adds the captions to the examples, and starts scoring all their texts."""
        for name, write, started in zip(self.captioners, self._write, batch.captions, strict=True):
            for decoding, found in zip(self.decodings, write.collect(started), strict=True):
                self._add(batch, name, decoding, found.tokens, found.log_probabilities.sum(-1))
        for name, captions in batch.plugin_captions.items():
            for (_, example), texts in zip(batch.decoded(), captions, strict=True):
                made = [entry(text, "synthetic", len(self.filters)) for text in texts]
                example["texts"] += [x | {"model": name} for x in made]
        for first in range(0, max(len(x["texts"]) for x in batch.examples), TEXTS_PER_CALL):
            texts = [x["texts"][first : first + TEXTS_PER_CALL] for x in batch.examples]
            for number, (model, match) in self._match.items():
                clean = model.tokenizer.cleanup.caption
                some = batch.pad([[clean(entry["text"]) for entry in row] for row in texts])
                ids, mask = encode(some, model)
                started = match.dispatch(batch.images(model.image_size), ids, mask)
                batch.scores.append((number, first, started))
                if number == min(self._match):
                    count_tokens(batch, first, mask, clean)
        for name, plugin in self._filter_plugins.items():
            self._score(batch, plugin, self.filters.index(name))

    def _score(self, batch: BatchInFlight, plugin: Plugin, number: int) -> None:
        """Sets the scores of a plug-in, which is filter `number`, of all texts with a word."""
        scored = [(x, [y for y in x["texts"] if has_words(y["text"])]) for _, x in batch.decoded()]
        scored = [(example, texts) for example, texts in scored if texts]
        if not scored:
            return
        texts = [[x["text"] for x in own] for _, own in scored]
        keys, pictures = zip(*((x["key"], x["picture"]) for x, _ in scored), strict=True)
        for (_, own), scores in zip(scored, plugin.scores(keys, pictures, texts), strict=True):
            for made, score in zip(own, scores, strict=True):
                made["p_match"][number] = score

    def _add(
        self,
        batch: BatchInFlight,
        name: str,
        decoding: Decoding,
        tokens: np.ndarray,
        log_probabilities: np.ndarray,
    ) -> None:
        """Adds one captioner's texts of one decoding; an image that did not decode gets none."""
        model = self.captioners[name]
        start = len(prompt_tokens(model))
        for i, example in batch.decoded():
            texts = model.tokenizer.decode(tokens[i, :, start:])
            for text, log in zip(texts, log_probabilities[i].tolist(), strict=True):
                if math.isnan(log):
                    raise UserError(_diverged("captioner", name, example["key"]))
                made = entry(text, "synthetic", len(self.filters))
                made |= {"model": name, "method": method(decoding), "log_probability": log}
                example["texts"].append(made)

    def _collect_rows(self, batch: BatchInFlight) -> list[dict]:
        """Adds the scores of all texts that are not empty, and returns the rows.

        Raises:
          UserError: a filter gives no number.
        """
        columns = ("key", "status", "texts", *["extra_scores"] * bool(self.extra_scores))
        for number, first, started in batch.scores:
            model, match = self._match[number]
            logits, cosine = match.collect(started)
            for i, example in batch.decoded():
                for g, made in enumerate(example["texts"][first : first + TEXTS_PER_CALL]):
                    if model.tokenizer.cleanup.caption(made["text"]):
                        no, yes = logits[i, g].tolist()
                        if not math.isfinite(no - yes + cosine[i, g]):
                            name = self.filters[number]
                            raise UserError(_diverged("filter", name, example["key"]))
                        made["itm_logits"][number] = logits[i, g]
                        made["p_match"][number] = 1 / (1 + math.exp(min(no - yes, 700)))
                        made["cosine"][number] = cosine[i, g]
        return [{name: x[name] for name in columns} for x in batch.examples]


def _models_and_plugins(found: Mapping[str, Any]) -> tuple[dict[str, Model], dict[str, Plugin]]:
    """Returns the models and the plug-ins among both, by name."""
    plugins = {name: x for name, x in found.items() if isinstance(x, Plugin)}
    return {name: x for name, x in found.items() if name not in plugins}, plugins


def encode(texts: Sequence[Sequence[str]], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 and mask bool [D * b, G, T] of cleaned texts; missing texts are empty.

    T is the length of the longest text, at most the model's `max_length`; longer texts are cut.
    """
    count = max(map(len, texts))
    flat = [text for row in texts for text in [*row, *[""] * (count - len(row))]]
    ids, mask = model.tokenizer.encode(flat, model.max_length)
    longest = int(mask.sum(-1).max())
    length = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, model.max_length)
    shape = len(texts), count, length
    return ids[:, :length].reshape(shape), mask[:, :length].reshape(shape)


def count_tokens(
    batch: BatchInFlight, first: int, mask: np.ndarray, clean: Callable[[str], str]
) -> None:
    """Sets "tokens", the number of tokens, of the texts from index `first` on; 0 of empty ones."""
    for i, example in batch.decoded():
        for g, made in enumerate(example["texts"][first : first + TEXTS_PER_CALL]):
            made["tokens"] = int(mask[i, g].sum()) if clean(made["text"]) else 0


def entry(text: str, origin: str, filters: int) -> dict:
    """Returns a text as the scored dataset stores it, before it is scored."""
    return {
        "text": text,
        "origin": origin,
        "model": "",
        "method": "",
        "itm_logits": np.full((filters, 2), np.nan, np.float32),
        "p_match": np.full(filters, np.nan, np.float32),
        "cosine": np.full(filters, np.nan, np.float32),
        "log_probability": math.nan,
        "tokens": 0,
    }


def _diverged(role: str, name: str, key: str) -> str:
    return (
        f"{role} {name!r} gives NaN for image {key!r}; check whether the model diverged, or use "
        "--config.dtype=float32"
    )


def method(decoding: Decoding) -> str:
    """Returns the name of a decoding in the rows: nucleus, top_k, greedy or beam."""
    if decoding.method != "sample":
        return decoding.method
    return "top_k" if decoding.top_k else "nucleus"
