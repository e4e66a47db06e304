"""The decoding loop: prefill the prompt, then a token a turn until all texts have ended.

B texts, P prompt tokens, T = `max_length` tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.sampling import Sampling, choose, process

# (ids [B, t], cache, tokens that the cache holds) -> (logits float32 [B, t, V], cache)
Step = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


class Generated(NamedTuple):
    """Texts and what the model thinks of them.

    Attributes:
      tokens: int32 [B, T], prompt included, pads behind the end token.
      length: int32 [B], tokens that are no pads.
      log_probability: float32 [B], of the tokens behind the prompt, the end token included, under
        the model's own distribution (before penalties and nucleus).
    """

    tokens: jax.Array
    length: jax.Array
    log_probability: jax.Array


class _State(NamedTuple):
    """What a turn of the loop reads and writes.

    `position` is the number of tokens that stand; `token` [B] is the newest, not yet in `cache`.
    """

    tokens: jax.Array
    token: jax.Array
    position: jax.Array
    cache: Any
    seen: jax.Array
    done: jax.Array
    log_probability: jax.Array


def generate(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    keys: jax.Array,
    options: Sampling,
    special: tuple[int, int],
) -> Generated:
    """Continues every prompt by nucleus sampling or greedily.

    Args:
      step: the model, closed over its context.
      cache: empty, for at least `options.max_length` tokens.
      prompt: int32 [B, P], [DEC] first, all of one length.
      keys: PRNG keys [B], one a text.
      special: ids of the end and the pad token.
    """
    eos, pad = special
    batch, length = prompt.shape
    tokens = jnp.full((batch, options.max_length), pad, jnp.int32).at[:, :length].set(prompt)
    logits, cache = step(prompt, cache, jnp.int32(0))
    rows = jnp.arange(batch)
    seen = jnp.zeros((batch, logits.shape[-1]), bool).at[rows[:, None], prompt].set(True)
    state = _State(
        tokens, prompt[:, -1], jnp.int32(length), cache, seen,
        jnp.zeros(batch, bool), jnp.zeros(batch),
    )  # fmt: skip

    def extend(state: _State, logits: jax.Array) -> _State:
        allowed = process(logits, state.seen, state.position, eos, options)
        token = choose(allowed, keys, state.position, options)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        token = jnp.where(state.done, pad, token)
        return state._replace(
            tokens=state.tokens.at[:, state.position].set(token),
            token=token,
            position=state.position + 1,
            seen=state.seen.at[rows, token].set(True),
            done=state.done | (token == eos),
            log_probability=state.log_probability + jnp.where(state.done, 0.0, logp),
        )

    def turn(state: _State) -> _State:
        logits, cache = step(state.token[:, None], state.cache, state.position - 1)
        return extend(state._replace(cache=cache), logits[:, -1])

    def unfinished(state: _State) -> jax.Array:
        return (state.position < options.max_length) & ~state.done.all()

    if length < options.max_length:
        state = jax.lax.while_loop(unfinished, turn, extend(state, logits[:, -1]))
    return Generated(state.tokens, (state.tokens != pad).sum(-1), state.log_probability)
