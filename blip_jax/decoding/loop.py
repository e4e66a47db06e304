"""The decoding loop: prefill the prompt, then a token per iteration until all texts have ended.

Letters: see `prefill.py`; here n = N, a row a text.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.beam import search
from blip_jax.decoding.config import DecodingParams, DecodingShape
from blip_jax.decoding.logits import process_logits, seen_tokens, select_token
from blip_jax.decoding.prefill import Generated, Step, prefill


class _State(NamedTuple):
    """What an iteration of the loop reads and writes.

    `position` is the number of tokens written; the newest of them is not yet in `cache`.
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
    shape: DecodingShape,
    params: DecodingParams,
    special: tuple[int, int],
    lengths: jax.Array | None = None,
) -> Generated:
    """Continues every prompt.

    A prompt that leaves no room is returned as it is.

    Args:
      step: the model, closed over its context.
      cache: empty, B rows, for at least `shape.total_length` tokens; see `prefill.Step`.
      prompt: int32 [B, P], [DEC] first.
      keys: PRNG keys [B, N], one a text, by which alone it is sampled; only "sample" needs them.
      shape: what the program is compiled for; params: the other options, arrays [B].
      special: ids of the end and the pad token.
      lengths: int32 [B], tokens of each prompt, at least 1, the rest being padding; None: P.
    """
    if shape.method == "beam":
        return search(step, cache, prompt, shape, params, special, lengths)
    return _sample(step, cache, prompt, keys, shape, params, special, lengths)


def _sample(step, cache, prompt, keys, shape, params, special, lengths) -> Generated:
    """Writes one token per iteration, sampled or the likeliest."""
    eos, pad = special
    start = prefill(
        step, cache, prompt, lengths, params, shape.total_length, pad, shape.num_captions
    )
    rows, total = start.tokens.shape
    keys = keys.reshape(rows) if shape.method == "sample" else None

    def extend(state: _State, logits: jax.Array) -> _State:
        previous = seen_tokens(state.tokens, state.position, logits.shape[-1])
        allowed = process_logits(logits, previous, state.position, eos, shape.method, start.params)
        token = select_token(allowed, keys, state.position, shape.method)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        in_prompt = state.position < start.length
        written = ~(in_prompt | state.done)
        # Other positions keep the prompt or a pad.
        token = jnp.where(written, token, state.tokens[:, state.position])
        logp = jnp.where(written, logp, 0.0)
        position = state.position + 1
        ended = (token == eos) | (position >= start.max_length)
        return _State(
            tokens=state.tokens.at[:, state.position].set(token),
            length=state.length + written,
            log_probabilities=state.log_probabilities.at[:, state.position].set(logp),
            done=state.done | (written & ended),
            position=position,
            cache=state.cache,
        )

    def body(state: _State) -> _State:
        token = jax.lax.dynamic_slice_in_dim(state.tokens, state.position - 1, 1, axis=1)
        logits, cache = step(token, state.cache, state.position - 1)
        return extend(state._replace(cache=cache), logits[:, -1])

    state = _State(
        start.tokens, start.length, jnp.zeros((rows, total)), start.length >= start.max_length,
        start.position, start.cache,
    )  # fmt: skip
    # Rows without room for a token are done: the first iteration leaves them unchanged.
    state = extend(state, start.logits)
    state = jax.lax.while_loop(lambda state: ~state.done.all(), body, state)
    score = state.log_probabilities.sum(axis=-1)
    found = state.tokens, state.length, state.log_probabilities, score
    return Generated(*(x.reshape(prompt.shape[0], -1, *x.shape[1:]) for x in found))
