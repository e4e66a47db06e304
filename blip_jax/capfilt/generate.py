"""From decoded images to finished rows: write texts, score them, while the devices never wait.

D local devices, b images a device, S pixels a side, G texts an image, T tokens, F filters.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from blip_jax.data.pipeline import stable_hash
from blip_jax.data.text import clean_caption
from blip_jax.decoding import Decoding
from blip_jax.models import Model
from blip_jax.models.functions import captioner, example_keys, match_function, prompt_tokens

TEXTS = 8  # of an image that are scored together, at most
STEP = 8  # T is a multiple of it, so that few programs are compiled


@dataclasses.dataclass
class Batch:
    """Images on their way: what goes in, and what the devices were asked for.

    Attributes:
      examples: {'key', 'status', 'texts': entries, 'image': {S: uint8 [S, S, 3]}}.
      size: D * b; where there are fewer examples, the last one goes in again.
      written: for each captioner, its texts under way.
      scored: (filter's number, number of the first text, scores under way).
    """

    examples: list[dict]
    size: int
    written: list[Any] = dataclasses.field(default_factory=list)
    scored: list[tuple[int, int, Any]] = dataclasses.field(default_factory=list)

    def filled(self, values: Sequence) -> list:
        """A value an example, as the programs take them."""
        return [*values, *[values[-1]] * (self.size - len(values))]

    def images(self, size: int) -> np.ndarray:
        """uint8 [D * b, S, S, 3]."""
        return np.stack(self.filled([example["image"][size] for example in self.examples]))

    def seen(self) -> Iterator[tuple[int, dict]]:
        """Number and example, of those that did decode."""
        return ((i, x) for i, x in enumerate(self.examples) if x["status"] == "ok")


class Work:
    """The programs of captioners and filters, and what goes in and out of them.

    Args:
      captioners, filters: models by name.
      ways: how each captioner writes; of each way `captions` texts.
      size: D * b, images a batch.
      seed: of the draws.
    """

    def __init__(
        self,
        captioners: Mapping[str, Model],
        filters: Mapping[str, Model],
        ways: Sequence[Decoding],
        size: int,
        seed: int,
    ):
        self.captioners, self.filters = captioners, filters
        self.ways, self.size, self.seed = ways, size, seed
        self._write = [captioner(model, ways) for model in captioners.values()]
        self._match = [match_function(model) for model in filters.values()]
        models = [*captioners.values(), *filters.values()]
        self.sizes = {model.image_size for model in models}

    def rows(self, batches: Iterable[list[dict]]) -> Iterator[list[dict]]:
        """The finished rows of each batch of examples (`Batch`), at most `size` of them.

        Three batches are under way: while the devices write one, the texts of the one before are
        read and sent back to be scored, and of the one before that the rows are made.
        """
        written = scored = None
        for examples in itertools.chain(batches, (None, None)):
            begun = None if examples is None else self._begin(Batch(examples, self.size))
            if written is not None:
                self._read(written)
            if scored is not None:
                yield self._finish(scored)
            written, scored = begun, written

    def _begin(self, batch: Batch) -> Batch:
        """Asks for the texts."""
        hashes = np.array(batch.filled([stable_hash(x["key"]) for x in batch.examples]))
        number = 0  # a text's, from which its key follows together with its image's
        for model, write in zip(self.captioners.values(), self._write, strict=True):
            keys = []
            for way in self.ways:
                numbers = range(number, number + way.num_captions)
                keys.append(jnp.stack([example_keys(self.seed, hashes, n) for n in numbers], 1))
                number += way.num_captions
            batch.written.append(write.dispatch(batch.images(model.image_size), keys))
        return batch

    def _read(self, batch: Batch) -> None:
        """Adds the texts to the examples, and asks for the scores of all they have."""
        for name, write, written in zip(self.captioners, self._write, batch.written, strict=True):
            for way, found in zip(self.ways, write.collect(written), strict=True):
                self._add(batch, name, way, found.tokens, found.log_probabilities.sum(-1))
        texts = [[clean_caption(entry["text"]) for entry in x["texts"]] for x in batch.examples]
        for first in range(0, max(map(len, texts)), TEXTS):
            part = batch.filled([row[first : first + TEXTS] for row in texts])
            for number, model in enumerate(self.filters.values()):
                ids, mask = encode(part, model)
                started = self._match[number].dispatch(batch.images(model.image_size), ids, mask)
                batch.scored.append((number, first, started))
                if number == 0:
                    count_tokens(batch, first, mask)

    def _add(
        self, batch: Batch, name: str, way: Decoding, tokens: np.ndarray, logs: np.ndarray
    ) -> None:
        """Adds one captioner's texts of one way; an image that was not seen gets none."""
        model = self.captioners[name]
        start = len(prompt_tokens(model))
        for i, example in batch.seen():
            texts = model.tokenizer.decode(tokens[i, :, start:])
            for text, log in zip(texts, logs[i].tolist(), strict=True):
                made = entry(text, "synthetic", len(self.filters))
                made |= {"model": name, "method": method(way), "log_probability": log}
                example["texts"].append(made)

    def _finish(self, batch: Batch) -> list[dict]:
        """Fills in the scores of what is not empty."""
        for number, first, started in batch.scored:
            logits, cosine = self._match[number].collect(started)
            for i, example in batch.seen():
                for g, made in enumerate(example["texts"][first : first + TEXTS]):
                    if clean_caption(made["text"]):
                        no, yes = logits[i, g].tolist()
                        made["itm_logits"][number] = logits[i, g]
                        made["p_match"][number] = 1 / (1 + math.exp(min(no - yes, 700)))
                        made["cosine"][number] = cosine[i, g]
        return [{name: x[name] for name in ("key", "status", "texts")} for x in batch.examples]


def encode(texts: Sequence[Sequence[str]], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 and mask bool [D * b, G, T] of cleaned texts; where one is missing, an empty one.

    T is the longest of them, at most the model's `max_length`, behind which texts are cut.
    """
    count = max(map(len, texts))
    flat = [text for row in texts for text in [*row, *[""] * (count - len(row))]]
    ids, mask = model.tokenizer.encode(flat, model.max_length)
    longest = int(mask.sum(-1).max())
    length = min(-(-longest // STEP) * STEP, model.max_length)
    shape = len(texts), count, length
    return ids[:, :length].reshape(shape), mask[:, :length].reshape(shape)


def count_tokens(batch: Batch, first: int, mask: np.ndarray) -> None:
    """Notes how many tokens the texts from number `first` on have."""
    for i, example in batch.seen():
        for g, made in enumerate(example["texts"][first : first + TEXTS]):
            made["tokens"] = int(mask[i, g].sum()) if clean_caption(made["text"]) else 0


def entry(text: str, origin: str, filters: int) -> dict:
    """A text as the scored dataset has it, before anything is known of it."""
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


def method(way: Decoding) -> str:
    """How a text was written, in a word: nucleus, top_k, greedy or beam."""
    return "top_k" if way.method == "nucleus" and way.top_k else way.method
