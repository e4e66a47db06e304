"""What the server computes: functions of rows, compiled for a few batch sizes.

A row is a tuple of arrays with no batch axis: an image uint8 [S, S, 3], and what is asked of it.
Its options are arrays, too, so that rows of different options share a batch.

b rows of a batch, S pixels a side, G texts an image, C candidates, T tokens, N captions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from blip_jax.data.images import normalize
from blip_jax.decoding import DecodingShape
from blip_jax.decoding.config import LENGTH_RULES
from blip_jax.models import Model, functions
from blip_jax.models.image_tokens import image_tokens, image_tokens_and_features
from blip_jax.models.pmapped import PmappedFunction
from blip_jax.runtime.errors import DIVERGED, UserError
from blip_jax.serving.batch_sizes import BatchSizes

Row = tuple[Any, ...]


class BatchFunction:
    """A function of one row, computed for several rows at once.

    Args:
      function: of arrays [b, ...], the rows stacked, to a tree of arrays [b, ...].
      example: a row of the shapes that all rows have.
      sizes: of batches, which programs are compiled for.

    Attributes:
      name: for metrics and messages.
      batch_sizes: how many rows a batch takes.
    """

    def __init__(
        self, name: str, model: Model, function: Callable, example: Row, sizes: Sequence[int]
    ):
        self.name = name
        self.sizes = sorted(set(sizes))
        self.batch_sizes = BatchSizes(self.sizes)
        self._model, self._function, self._example = model, function, example

    def __call__(self, rows: Sequence[Row]) -> list[Any]:
        """Returns the result of each row, a tree of NumPy arrays; no more than a batch may have."""
        size = next(size for size in self.sizes if size >= len(rows))
        arrays = self._stacked([*rows, *[rows[-1]] * (size - len(rows))])
        leaves, structure = jax.tree.flatten(self._function(*arrays))
        return [
            jax.tree.unflatten(structure, [leaf[row] for leaf in leaves])
            for row in range(len(rows))
        ]

    def warm_up(self, size: int) -> None:
        """Compiles the program of a batch size, and runs it.

        Raises:
          UserError: the model gives NaN.
        """
        rows = [self._example] * size
        with self._model.compile_message(self._stacked(rows), f"{self.name}, {size} rows"):
            if has_nan(self(rows)[0]):
                raise UserError(f"{self._model.name or 'the model'} gives NaN; {DIVERGED}")

    def _stacked(self, rows: Sequence[Row]) -> Row:
        return jax.tree.map(lambda *values: np.stack(values), *rows)


def has_nan(result: Any) -> bool:
    """Returns whether a number of a row's result is NaN."""
    leaves = jax.tree.leaves(result)
    return any(np.isnan(x).any() for x in leaves if np.issubdtype(x.dtype, np.floating))


@jax.jit
def row_keys(seeds: jax.Array, indices: jax.Array, numbers: jax.Array) -> jax.Array:
    """Returns PRNG keys [b, 1], equal to `functions.example_keys(seed, index, number)` of each row.

    Args:
      seeds, indices, numbers: uint32 or int32 [b].
    """

    def key(seed, index, number):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), index)

    return jax.vmap(key)(seeds, indices, numbers)[:, None]


def caption_function(model: Model, num_beams: int, length: int) -> Callable:
    """Returns a function that captions by sampling (num_beams 1) or beam search.

    It takes images, seeds uint32 [b], the images' indices and the captions' numbers int32 [b],
    `DecodingParams` [b], prompts int32 [b, length] and their lengths int32 [b]; it gives
    `Generated`, of beam search all beams.
    """
    method = "beam" if num_beams > 1 else "sample"
    shape = DecodingShape(method, num_beams, num_beams, LENGTH_RULES[0], length)
    function = functions.caption_function(model, shape)

    def caption(images, seeds, indices, numbers, params, prompts, lengths):
        keys = row_keys(seeds, indices, numbers)
        return function(images, keys, params, prompts, lengths)

    return caption


def rank_function(model: Model, count: int, rows: int = 1) -> PmappedFunction:
    """Returns a function of images, questions and their candidates to the likeliest candidate.

    So many `rows` are scored at a time, as their candidates have logits over the whole vocabulary.

    It takes ids and mask [b, T] of the questions, ids and mask [b, C, T] of the candidates and
    which of them are no padding, bool [b, C]; see `functions.rank_answers`, with k = C.
    """
    known = functions.without_params(model)

    def rank(apply, images, ids, mask, *candidates):
        tokens = image_tokens(apply, normalize(images))
        states = apply("question_hidden_states", tokens, ids, mask)

        def one(row):
            state, read, own = row
            best = functions.rank_answers(apply, known, state[None], read[None], own, count)
            return jax.tree.map(lambda x: x[0], best)

        return jax.lax.map(one, (states, mask, candidates), batch_size=rows)

    return PmappedFunction(rank, model, ("rank_own_candidates", count, rows))


def image_features_function(model: Model) -> PmappedFunction:
    """Returns a function of images to aligned features float32 [b, E]."""

    def encode(apply, images):
        return image_tokens_and_features(apply, normalize(images))[1]

    return PmappedFunction(encode, model, "image_features")
