"""What every method begins with, the prompt in the cache, and what every method gives back.

B prompts (images), P prompt tokens, N texts an image, n rows an image while decoding, R = B * n
rows, T tokens (`Decoding.room(P)`), V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.config import Decoding

# (ids [R, t], cache, tokens that the cache holds) -> (logits float32 [R, t, V], cache). R is a
# multiple of B; the cache is a pytree with the rows on axis 1 of every leaf.
Step = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


class Generated(NamedTuple):
    """Texts and what the model thinks of them.

    Attributes:
      tokens: int32 [B, N, T], prompt included, pads behind the end token.
      length: int32 [B, N], tokens that are no such pads.
      log_probabilities: float32 [B, N, T], of each token behind the prompt, the end token
        included, under the model's own distribution (before penalties, top-k and top-p); 0 at
        the prompt and at pads.
      score: float32 [B, N], of beam search its own, best first; else the sum of
        `log_probabilities`.
    """

    tokens: jax.Array
    length: jax.Array
    log_probabilities: jax.Array
    score: jax.Array


class Prompts(NamedTuple):
    """Rows that are ready for their next token.

    Attributes:
      tokens: int32 [R, T], the prompts, padded.
      length: int32 [R], tokens of the prompts.
      limit: int32 [R], tokens at which a text ends at the latest; not below `length`.
      position: int32 [], tokens that stand in the cache; below `length` where prompts are ragged.
      logits: float32 [R, V], of the token at `position`.
      cache: R rows.
    """

    tokens: jax.Array
    length: jax.Array
    limit: jax.Array
    position: jax.Array
    logits: jax.Array
    cache: Any


def prefill(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    lengths: jax.Array | None,
    options: Decoding,
    pad: int,
    copies: int,
) -> Prompts:
    """Runs the prompts once an image and then repeats each row `copies` times.

    Ragged prompts share only their first token's position: it alone is prefilled, and the loop
    forces the rest, so that one program serves prompts of all lengths.
    """
    batch, longest = prompt.shape
    total = options.room(longest)
    start = longest if lengths is None else 1
    lengths = jnp.full(batch, longest) if lengths is None else jnp.asarray(lengths)
    length = lengths.astype(jnp.int32)
    given = jnp.where(jnp.arange(longest) < length[:, None], prompt, pad)
    tokens = jnp.full((batch, total), pad, jnp.int32).at[:, :longest].set(given)
    limit = length + options.max_new_tokens if options.max_new_tokens else options.max_length
    limit = jnp.maximum(limit, length)
    logits, cache = step(prompt[:, :start], cache, jnp.int32(0))
    tokens, length, limit, logits = (
        jnp.repeat(x, copies, axis=0) for x in (tokens, length, limit, logits[:, -1])
    )
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=1), cache)
    return Prompts(tokens, length, limit, jnp.int32(start), logits, cache)
