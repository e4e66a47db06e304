"""From next-token logits to a token: penalties, minimum length, top-k, nucleus, greedy.

R rows (texts), V vocabulary, T tokens. The order is that of the library the original generates
with: repetition penalty, minimum length, temperature, top-k, top-p. All options are arrays [R].
"""

import jax
import jax.numpy as jnp

from blip_jax.decoding.config import DecodingParams


def process_logits(
    logits: jax.Array,
    previous_tokens: jax.Array,
    length: jax.Array,
    eos: int,
    method: str,
    params: DecodingParams,
) -> jax.Array:
    """Returns the logits that a token is selected by; what is ruled out is -inf.

    The repetition penalty divides positive and multiplies negative logits of `previous_tokens`.

    Args:
      logits: float32 [R, V], in beam search log-probabilities.
      previous_tokens: bool [R, V], tokens that the text holds.
      length: int32 [], tokens so far.
      eos: id of the end token.
      method: "sample" applies temperature, top-k and top-p too.
      params: arrays [R].
    """
    penalty = params.repetition_penalty[:, None]
    penalised = jnp.where(logits < 0, logits * penalty, logits / penalty)
    logits = jnp.where(previous_tokens, penalised, logits)
    is_end = jnp.arange(logits.shape[-1]) == eos
    too_short = (length < params.min_length)[:, None] & is_end
    logits = jnp.where(too_short, -jnp.inf, logits)
    if method != "sample":
        return logits
    logits = logits / params.temperature[:, None]
    return top_p(top_k(logits, params.top_k), params.top_p)


def seen_tokens(tokens: jax.Array, length: jax.Array, vocab_size: int) -> jax.Array:
    """Returns bool [R, V]: which tokens are among the first `length` of int32 [R, T]."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    held = jnp.where(jnp.arange(tokens.shape[1]) < length, tokens, vocab_size)
    return jnp.zeros((tokens.shape[0], vocab_size), bool).at[rows, held].set(True, mode="drop")


def top_k(logits: jax.Array, k: jax.Array) -> jax.Array:
    """Keeps the k likeliest tokens, and those that tie with the last; k = 0 keeps all.

    Args:
      logits: float32 [R, V]; k: int32 [R].

    Returns: the same with -inf elsewhere.
    """

    def cut(logits: jax.Array) -> jax.Array:
        limit = jnp.where(k > 0, k, logits.shape[-1]).astype(jnp.float32) - 1
        kept = keep(logits, jnp.ones_like(logits), limit[:, None])
        return jnp.where(kept, logits, -jnp.inf)

    return jax.lax.cond((k > 0).any(), cut, lambda logits: logits, logits)


def top_p(logits: jax.Array, p: jax.Array) -> jax.Array:
    """Keeps the likeliest tokens up to the one with which their probability passes p.

    Args:
      logits: float32 [R, V]; p: float32 [R]; 1 keeps all.

    Returns: the same with -inf elsewhere. For probabilities .6 .3 .1 and p = .7 two are kept.
    """

    def cut(logits: jax.Array) -> jax.Array:
        kept = keep(logits, jax.nn.softmax(logits, axis=-1), p[:, None]) | (p >= 1)[:, None]
        return jnp.where(kept, logits, -jnp.inf)

    return jax.lax.cond((p < 1).any(), cut, lambda logits: logits, logits)


def keep(logits: jax.Array, weight: jax.Array, limit: jax.Array) -> jax.Array:
    """Returns bool [R, V]: the tokens whose likelier tokens have a total weight of at most `limit`.

    The least such logit is found by bisection, 32 sums over the vocabulary instead of a sort.

    Args:
      logits, weight: float32 [R, V]; limit: float32 [R, 1].
    """
    order = order_preserving_int(logits)

    def bisect(_, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, computed without overflow
        likelier = jnp.where(order > middle, weight, 0).sum(-1, keepdims=True)
        enough = likelier <= limit
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    ends = order.min(-1, keepdims=True), order.max(-1, keepdims=True)
    threshold, _ = jax.lax.fori_loop(0, 32, bisect, ends)
    return order >= threshold


def order_preserving_int(x: jax.Array) -> jax.Array:
    """Returns int32 in the order of float32: their bits, those of negative numbers inverted."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def select_token(
    logits: jax.Array, keys: jax.Array | None, position: jax.Array, method: str
) -> jax.Array:
    """Returns int32 [R]: one token per row.

    Each row is sampled by its own key, so that its text depends neither on its neighbours in the
    batch nor on the batch's size.
    """
    if method != "sample":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def sample(key: jax.Array, row: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, position), row)

    return jax.vmap(sample)(keys, logits).astype(jnp.int32)
