"""Beam search, jitted whole, equal to that of transformers 4.25.1 token for token.

B images, K beams, T tokens, V vocabulary, R = B * K rows of the model. Each image has K open
texts, which all hold `position` tokens, and a pool of the K best texts that have ended.

Source: `beam_search` and `BeamSearchScorer` of transformers 4.25.1, which the original calls;
texts whose scores are the same float may come in another order. What it does not have is a maximum
length for each image: there an image's open texts end, and the image is done.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.config import DecodingParams, DecodingShape
from blip_jax.decoding.logits import process_logits, seen_tokens
from blip_jax.decoding.prefill import Generated, PrefilledPrompts, Step, prefill

# Beams start as copies. All but the first get this score, so that beams find different texts.
DUPLICATE_BEAM_SCORE = -1e9


class Texts(NamedTuple):
    """K texts an image (or the 2 K that they may become).

    Attributes:
      tokens, log_probabilities, length: as in `prefill.Generated`.
      score: float32 [B, K], of open texts the sum of processed log-probabilities, in the pool
        that divided by the length; -inf where the pool is empty.
    """

    tokens: jax.Array
    log_probabilities: jax.Array
    length: jax.Array
    score: jax.Array

    def take(self, index: jax.Array) -> "Texts":
        """Returns the texts of int32 [B, k]."""
        rows = jnp.arange(index.shape[0])[:, None]
        return jax.tree.map(lambda x: x[rows, index], self)

    def where(self, which: jax.Array) -> "Texts":
        """Returns the texts where bool [B, k] (broadcast), and empty ones elsewhere."""
        return self._replace(score=jnp.where(which, self.score, -jnp.inf))

    def top_k_of_both(self, other: "Texts") -> "Texts":
        """Returns the K best of both, best first."""
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), self, other)
        return both.take(jax.lax.top_k(both.score, self.score.shape[1])[1])


class _State(NamedTuple):
    """What an iteration reads and writes; the open texts' newest token is not yet in `cache`."""

    open: Texts
    finished: Texts
    done: jax.Array
    position: jax.Array
    cache: Any


def search(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    shape: DecodingShape,
    params: DecodingParams,
    special: tuple[int, int],
    lengths: jax.Array | None = None,
) -> Generated:
    """Returns the best `shape.num_captions` texts of every prompt; arguments as `loop.generate`.

    Probabilities and scores are NaN where logits are.
    """
    eos, pad = special
    start = prefill(step, cache, prompt, lengths, params, shape.total_length, pad, shape.num_beams)

    def body(state: _State) -> _State:
        token = jax.lax.dynamic_slice_in_dim(state.open.tokens, state.position - 1, 1, axis=2)
        logits, cache = step(token.reshape(-1, 1), state.cache, state.position - 1)
        return _extend_beams(state._replace(cache=cache), logits[:, -1], start, shape, eos)

    state = _extend_beams(_first(start, shape.num_beams), start.logits, start, shape, eos)
    state = jax.lax.while_loop(lambda state: ~state.done.all(), body, state)
    best = jax.tree.map(lambda x: x[:, : shape.num_captions], state.finished)  # best first
    # No text has ended where logits are NaN, which top_k and comparisons do not pass on.
    ended = best.score > -jnp.inf
    log_probabilities = jnp.where(ended[..., None], best.log_probabilities, jnp.nan)
    score = jnp.where(ended, best.score, jnp.nan)
    return Generated(best.tokens, best.length, log_probabilities, score)


def _first(start: PrefilledPrompts, num_beams: int) -> _State:
    """Returns the start state: K copies of each prompt.

    An image without room for a token is done: its prompt is its finished text.
    """
    tokens, length, done = (
        x.reshape(-1, num_beams, *x.shape[1:])
        for x in (start.tokens, start.length, start.length >= start.max_length)
    )
    is_first = jnp.arange(num_beams) == 0
    score = jnp.broadcast_to(jnp.where(is_first, 0.0, DUPLICATE_BEAM_SCORE), length.shape)
    texts = Texts(tokens, jnp.zeros(tokens.shape), length, score)
    finished = texts._replace(score=jnp.where(done, 0.0, -jnp.inf))
    return _State(texts, finished, done[:, 0], start.position, start.cache)


def _extend_beams(
    state: _State, logits: jax.Array, start: PrefilledPrompts, shape: DecodingShape, eos: int
) -> _State:
    """Adds a token to every open text; logits float32 [R, V]."""
    num_beams, position = shape.num_beams, state.position
    length, max_length, length_penalty, early_stopping = (  # [B]
        x[::num_beams]
        for x in (
            start.length, start.max_length, start.params.length_penalty,
            start.params.early_stopping,
        )
    )  # fmt: skip
    texts, parent, ended = _candidates(state, logits, length, start.params, eos)
    counts_prompt = shape.length_rule == "transformers-4.25"
    if counts_prompt:
        ended_length, open_length = jnp.stack([position, position + 1])[:, None]
    else:
        ended_length = open_length = position + 1 - length
    averaged = _averaged(texts, ended_length, length_penalty)
    # An end token counts only among the K best of the 2 K candidates. At least K candidates have
    # not ended; the K best of them stay open.
    counts = ended & (jnp.arange(2 * num_beams) < num_beams) & ~state.done[:, None]
    finished = state.finished.top_k_of_both(averaged.where(counts))
    still_open = jnp.argsort(ended, axis=1, stable=True)[:, :num_beams]
    best = averaged if counts_prompt else averaged.take(still_open)
    worst = finished.score.min(axis=1)
    enough = (worst > -jnp.inf) & (early_stopping | (worst >= best.score[:, 0]))
    done = state.done | enough
    texts, parent = texts.take(still_open), jnp.take_along_axis(parent, still_open, axis=1)
    at_limit = position + 1 >= max_length
    closing = at_limit & ~(done if counts_prompt else state.done)
    closed = _averaged(texts, open_length, length_penalty).where(closing[:, None])
    finished = finished.top_k_of_both(closed)
    rows = (jnp.arange(len(parent))[:, None] * num_beams + parent).reshape(-1)
    cache = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"), state.cache)
    return _State(texts, finished, done | at_limit, position + 1, cache)


def _candidates(
    state: _State, logits: jax.Array, length: jax.Array, params: DecodingParams, eos: int
) -> tuple[Texts, jax.Array, jax.Array]:
    """Returns the 2 K best of all texts that are one token longer, best first.

    Returns: (the texts, int32 [B, 2 K] which open text each continues, bool [B, 2 K] whether it
      has ended).
    """
    position, opened = state.position, state.open
    batch, num_beams, total = opened.tokens.shape
    vocab_size = logits.shape[-1]
    logp = jax.nn.log_softmax(logits)
    previous = seen_tokens(opened.tokens.reshape(-1, total), position, vocab_size)
    scores = process_logits(logp, previous, position, eos, "beam", params)
    scores = scores.reshape(batch, num_beams, vocab_size)
    in_prompt = (position < length)[:, None]
    prompt = opened.tokens[:, :, position, None]  # used where in_prompt
    only = jnp.where(jnp.arange(vocab_size) == prompt, 0.0, -jnp.inf)
    scores = jnp.where(in_prompt[..., None], only, scores) + opened.score[..., None]
    score, index = jax.lax.top_k(scores.reshape(batch, -1), 2 * num_beams)
    parent, token = index // vocab_size, index % vocab_size
    logp = jnp.take_along_axis(logp.reshape(batch, -1), index, axis=1)
    texts = opened.take(parent)
    texts = Texts(
        texts.tokens.at[:, :, position].set(token),
        texts.log_probabilities.at[:, :, position].set(jnp.where(in_prompt, 0.0, logp)),
        texts.length + ~in_prompt,
        score,
    )
    return texts, parent, (token == eos) & ~in_prompt


def _averaged(texts: Texts, tokens: jax.Array, length_penalty: jax.Array) -> Texts:
    """Scores divided by a power of the length; tokens int32 [B] or [1], length_penalty [B]."""
    length = jnp.maximum(tokens, 1).astype(jnp.float32)  # below 1 only within prompts
    return texts._replace(score=texts.score / (length**length_penalty)[:, None])
