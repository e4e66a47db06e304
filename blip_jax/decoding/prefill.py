"""What every method starts with, the prompt in the cache, and what every method returns.

B prompts (images), P prompt tokens, N texts an image, n rows an image while decoding, R = B * n
rows, T tokens (`DecodingShape.total_length`), V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.config import DecodingParams

# (ids [R, t], cache, tokens that the cache holds) -> (logits float32 [R, t, V], cache). R is a
# multiple of B; the cache is a pytree with the rows on axis 0 of every leaf.
Step = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


class Generated(NamedTuple):
    """Texts and their probabilities under the model.

    Attributes:
      tokens: int32 [B, N, T], prompt included, pads after the end token.
      length: int32 [B, N], tokens without these pads.
      log_probabilities: float32 [B, N, T], of each token after the prompt, the end token
        included, under the model's own distribution (before penalties, top-k and top-p); 0 at
        the prompt and at pads.
      score: float32 [B, N], of beam search its own, best first; else the sum of
        `log_probabilities`.
    """

    tokens: jax.Array
    length: jax.Array
    log_probabilities: jax.Array
    score: jax.Array


class PrefilledPrompts(NamedTuple):
    """Rows that are ready for their next token.

    Attributes:
      tokens: int32 [R, T], the prompts, padded.
      length: int32 [R], tokens of the prompts.
      max_length: int32 [R], most tokens of a text; not below `length`.
      position: int32 [], tokens in the cache; below `length` where prompts are ragged.
      logits: float32 [R, V], of the token at `position`.
      cache: R rows.
      params: arrays [R].
    """

    tokens: jax.Array
    length: jax.Array
    max_length: jax.Array
    position: jax.Array
    logits: jax.Array
    cache: Any
    params: DecodingParams


def prefill(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    lengths: jax.Array | None,
    params: DecodingParams,
    total_length: int,
    pad: int,
    copies: int,
) -> PrefilledPrompts:
    """Runs the prompts once an image, then repeats each row `copies` times.

    Ragged prompts share only their first token's position: it alone is prefilled, and the loop
    feeds the rest, so that one program serves prompts of all lengths.
    """
    batch, longest = prompt.shape
    first = longest if lengths is None else 1
    lengths = jnp.full(batch, longest) if lengths is None else jnp.asarray(lengths)
    length = lengths.astype(jnp.int32)
    given = jnp.where(jnp.arange(longest) < length[:, None], prompt, pad)
    tokens = jnp.full((batch, total_length), pad, jnp.int32).at[:, :longest].set(given)
    new = params.max_new_tokens
    max_length = jnp.maximum(jnp.where(new > 0, length + new, params.max_length), length)
    logits, cache = step(prompt[:, :first], cache, jnp.int32(0))
    tokens, length, max_length, logits = (
        jnp.repeat(x, copies, axis=0) for x in (tokens, length, max_length, logits[:, -1])
    )
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=0), cache)
    return PrefilledPrompts(
        tokens, length, max_length, jnp.int32(first), logits, cache, params.repeat(copies)
    )
