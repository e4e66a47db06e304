"""From next-token logits to a token: penalties, minimum length, nucleus, greedy.

B texts, V vocabulary. The order is that of the library the original generates with: repetition
penalty, minimum length, temperature, top-p.
"""

import dataclasses

import jax
import jax.numpy as jnp

from blip_jax.errors import UserError

METHODS = ("nucleus", "greedy")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How captions are drawn; the defaults are CapFilt's (the author, BLIP issues).

    Attributes:
      method: "nucleus" draws, "greedy" takes the likeliest.
      top_p: nucleus: the likeliest tokens that together reach this probability.
      temperature: divides the logits of "nucleus".
      repetition_penalty: divides the positive and multiplies the negative logits of tokens that
        the text holds already, the prompt counted.
      min_length, max_length: tokens, [DEC] and prompt counted.
    """

    method: str = "nucleus"
    top_p: float = 0.9
    temperature: float = 1.0
    repetition_penalty: float = 1.1
    min_length: int = 5
    max_length: int = 20

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f"decoding method {self.method!r} is unknown: {', '.join(METHODS)}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise UserError("temperature and repetition_penalty must be above 0")
        if not 0 <= self.min_length <= self.max_length:
            raise UserError(
                f"min_length {self.min_length} must lie between 0 and max_length {self.max_length}"
            )


def process(
    logits: jax.Array, seen: jax.Array, length: jax.Array, eos: int, options: Sampling
) -> jax.Array:
    """The logits that a token is drawn from; what is ruled out is -inf.

    Args:
      logits: float32 [B, V]; seen: bool [B, V], tokens that the text holds.
      length: int32 [], tokens so far.
      eos: id of the end token.
    """
    penalty = options.repetition_penalty
    penalised = jnp.where(logits < 0, logits * penalty, logits / penalty)
    logits = jnp.where(seen, penalised, logits)
    too_short = (length < options.min_length) & (jnp.arange(logits.shape[-1]) == eos)
    logits = jnp.where(too_short, -jnp.inf, logits)
    if options.method == "greedy":
        return logits
    return top_p(logits / options.temperature, options.top_p)


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps the likeliest tokens up to the one with which their probability passes p.

    Args:
      logits: float32 [B, V].

    Returns: the same with -inf elsewhere. For probabilities .6 .3 .1 and p = .7 two are kept.
    """
    descending = jnp.sort(logits, axis=-1, descending=True)
    probability = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # The least of the kept logits; a token is kept while those before it do not pass p.
    least = jnp.min(jnp.where(before <= p, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def choose(logits: jax.Array, keys: jax.Array, step: jax.Array, options: Sampling) -> jax.Array:
    """int32 [B]: one token a row. Each row draws by its own key, so that its text depends neither

    on its neighbours in the batch nor on the batch's size.
    """
    if options.method == "greedy":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row))
    return drawn(keys, logits).astype(jnp.int32)
