"""From next-token logits to a token: penalties, minimum length, top-k, nucleus, greedy.

R rows (texts), V vocabulary, T tokens. The order is that of the library the original generates
with: repetition penalty, minimum length, temperature, top-k, top-p.
"""

import jax
import jax.numpy as jnp

from blip_jax.decoding.config import Decoding


def process(
    logits: jax.Array, seen: jax.Array, length: jax.Array, eos: int, options: Decoding
) -> jax.Array:
    """The logits that a token is chosen by; what is ruled out is -inf.

    The repetition penalty divides positive and multiplies negative logits of `seen` tokens.

    Args:
      logits: float32 [R, V], in beam search log-probabilities.
      seen: bool [R, V], tokens that the text holds.
      length: int32 [], tokens so far.
      eos: id of the end token.
    """
    penalty = options.repetition_penalty
    penalised = jnp.where(logits < 0, logits * penalty, logits / penalty)
    logits = jnp.where(seen, penalised, logits)
    too_short = (length < options.min_length) & (jnp.arange(logits.shape[-1]) == eos)
    logits = jnp.where(too_short, -jnp.inf, logits)
    if options.method != "nucleus":
        return logits
    return top_p(top_k(logits / options.temperature, options.top_k), options.top_p)


def seen_tokens(tokens: jax.Array, length: jax.Array, vocab: int) -> jax.Array:
    """bool [R, V]: which tokens are among the first `length` of int32 [R, T]."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    held = jnp.where(jnp.arange(tokens.shape[1]) < length, tokens, vocab)
    return jnp.zeros((tokens.shape[0], vocab), bool).at[rows, held].set(True, mode="drop")


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the k likeliest tokens, and those that tie with the last; k = 0 keeps all.

    Args:
      logits: float32 [R, V].

    Returns: the same with -inf elsewhere.
    """
    if not 0 < k < logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][:, -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps the likeliest tokens up to the one with which their probability passes p.

    A token is kept while those that are likelier have p together or less; the least logit of which
    this is so is found by halving an interval, 32 sums over the vocabulary instead of a sort.

    Args:
      logits: float32 [R, V].

    Returns: the same with -inf elsewhere. For probabilities .6 .3 .1 and p = .7 two are kept.
    """
    if p >= 1:
        return logits
    probability, place = jax.nn.softmax(logits, axis=-1), ordered(logits)

    def halve(_, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # of their sum, which might overflow
        likelier = jnp.where(place > middle, probability, 0).sum(-1, keepdims=True)
        enough = likelier <= p
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    ends = place.min(-1, keepdims=True), place.max(-1, keepdims=True)
    least, _ = jax.lax.fori_loop(0, 32, halve, ends)
    return jnp.where(place >= least, logits, -jnp.inf)


def ordered(x: jax.Array) -> jax.Array:
    """int32 that stand in the order of float32: their bits, those of negative ones turned round."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def choose(
    logits: jax.Array, keys: jax.Array | None, step: jax.Array, options: Decoding
) -> jax.Array:
    """int32 [R]: one token a row. Each row draws by its own key, so that its text depends neither

    on its neighbours in the batch nor on the batch's size.
    """
    if options.method != "nucleus":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row))
    return drawn(keys, logits).astype(jnp.int32)
