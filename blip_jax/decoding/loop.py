"""The decoding loop: prefill the prompt, then a token a turn until all texts have ended.

Letters: see `prefill.py`; here n = N, a row a text.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.beam import search
from blip_jax.decoding.config import Decoding
from blip_jax.decoding.logits import choose, process, seen_tokens
from blip_jax.decoding.prefill import Generated, Step, prefill


class _State(NamedTuple):
    """What a turn of the loop reads and writes.

    `position` is the number of tokens that stand; the newest of them is not yet in `cache`.
    """

    tokens: jax.Array
    length: jax.Array
    log_probabilities: jax.Array
    done: jax.Array
    position: jax.Array
    cache: Any


def generate(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    keys: jax.Array | None,
    options: Decoding,
    special: tuple[int, int],
    lengths: jax.Array | None = None,
) -> Generated:
    """Continues every prompt.

    A prompt that leaves no room comes back as it is.

    Args:
      step: the model, closed over its context.
      cache: empty, B rows, for at least `options.room(P)` tokens; see `prefill.Step`.
      prompt: int32 [B, P], [DEC] first.
      keys: PRNG keys [B, N], one a text, by which alone it is drawn; only "nucleus" needs them.
      special: ids of the end and the pad token.
      lengths: int32 [B], tokens of each prompt, at least 1, what follows being padding; None: P.
    """
    if options.uses_beam_search:
        return search(step, cache, prompt, options, special, lengths)
    return _sample(step, cache, prompt, keys, options, special, lengths)


def _sample(step, cache, prompt, keys, options, special, lengths) -> Generated:
    """A token a turn, drawn or the likeliest."""
    eos, pad = special
    start = prefill(step, cache, prompt, lengths, options, pad, options.num_captions)
    rows, total = start.tokens.shape
    keys = keys.reshape(rows) if options.method == "nucleus" else None

    def extend(state: _State, logits: jax.Array) -> _State:
        seen = seen_tokens(state.tokens, state.position, logits.shape[-1])
        allowed = process(logits, seen, state.position, eos, options)
        token = choose(allowed, keys, state.position, options)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        forced = state.position < start.length
        written = ~(forced | state.done)
        # Where nothing is written stands the prompt or a pad already.
        token = jnp.where(written, token, state.tokens[:, state.position])
        logp = jnp.where(written, logp, 0.0)
        position = state.position + 1
        ended = (token == eos) | (position >= start.limit)
        return _State(
            tokens=state.tokens.at[:, state.position].set(token),
            length=state.length + written,
            log_probabilities=state.log_probabilities.at[:, state.position].set(logp),
            done=state.done | (written & ended),
            position=position,
            cache=state.cache,
        )

    def turn(state: _State) -> _State:
        token = jax.lax.dynamic_slice_in_dim(state.tokens, state.position - 1, 1, axis=1)
        logits, cache = step(token, state.cache, state.position - 1)
        return extend(state._replace(cache=cache), logits[:, -1])

    state = _State(
        start.tokens, start.length, jnp.zeros((rows, total)), start.length >= start.limit,
        start.position, start.cache,
    )  # fmt: skip
    # Rows without room are done: what the first turn writes for them stands there already.
    state = extend(state, start.logits)
    state = jax.lax.while_loop(lambda state: ~state.done.all(), turn, state)
    score = state.log_probabilities.sum(axis=-1)
    found = state.tokens, state.length, state.log_probabilities, score
    return Generated(*(x.reshape(prompt.shape[0], -1, *x.shape[1:]) for x in found))
