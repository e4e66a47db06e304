"""Beam search, jitted whole, equal to that of transformers 4.25.1 token for token.

B images, K beams, T tokens, V vocabulary, R = B * K rows of the model. Each image has K open
texts, that all hold `position` tokens, and a pool of the K best texts that have ended.

Source: `beam_search` and `BeamSearchScorer` of transformers 4.25.1, which the original calls;
texts whose scores are the same float may come in another order. What it does not have is a limit
an image: at its own, an image's open texts end, and the image is done.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax.decoding.config import Decoding
from blip_jax.decoding.logits import process, seen_tokens
from blip_jax.decoding.prefill import Generated, Prompts, Step, prefill

# Beams start as copies. All but the first get this score, so that they do not find the same text.
BEHIND = -1e9


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

    def pick(self, index: jax.Array) -> "Texts":
        """The texts of int32 [B, k], a new struct."""
        rows = jnp.arange(index.shape[0])[:, None]
        return jax.tree.map(lambda x: x[rows, index], self)

    def only(self, which: jax.Array) -> "Texts":
        """The texts where bool [B, k] (broadcast), and nothing elsewhere."""
        return self._replace(score=jnp.where(which, self.score, -jnp.inf))

    def merged(self, other: "Texts") -> "Texts":
        """The K best of both, best first."""
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), self, other)
        return both.pick(jax.lax.top_k(both.score, self.score.shape[1])[1])


class _State(NamedTuple):
    """What a turn reads and writes; the open texts' newest token is not yet in `cache`."""

    open: Texts
    pool: Texts
    done: jax.Array
    position: jax.Array
    cache: Any


def search(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    options: Decoding,
    special: tuple[int, int],
    lengths: jax.Array | None = None,
) -> Generated:
    """The best `options.num_captions` texts for every prompt; arguments as of `loop.generate`."""
    eos, pad = special
    start = prefill(step, cache, prompt, lengths, options, pad, options.num_beams)

    def turn(state: _State) -> _State:
        token = jax.lax.dynamic_slice_in_dim(state.open.tokens, state.position - 1, 1, axis=2)
        logits, cache = step(token.reshape(-1, 1), state.cache, state.position - 1)
        return _advance(state._replace(cache=cache), logits[:, -1], start, options, eos)

    state = _advance(_first(start, options.num_beams), start.logits, start, options, eos)
    state = jax.lax.while_loop(lambda state: ~state.done.all(), turn, state)
    best = jax.tree.map(lambda x: x[:, : options.num_captions], state.pool)  # the best come first
    return Generated(best.tokens, best.length, best.log_probabilities, best.score)


def _first(start: Prompts, beams: int) -> _State:
    """K copies of each prompt. An image without room is done, its pool full of the prompt."""
    tokens, length, done = (
        x.reshape(-1, beams, *x.shape[1:])
        for x in (start.tokens, start.length, start.length >= start.limit)
    )
    score = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, BEHIND), length.shape)
    texts = Texts(tokens, jnp.zeros(tokens.shape), length, score)
    pool = texts._replace(score=jnp.where(done, 0.0, -jnp.inf))
    return _State(texts, pool, done[:, 0], start.position, start.cache)


def _advance(
    state: _State, logits: jax.Array, start: Prompts, options: Decoding, eos: int
) -> _State:
    """A token more for every open text; logits float32 [R, V]."""
    beams, position = options.num_beams, state.position
    length, limit = start.length[::beams], start.limit[::beams]  # [B]
    texts, parent, ended = _candidates(state, logits, length, options, eos)
    if options.prompt_in_length:
        ended_length, open_length = jnp.stack([position, position + 1])[:, None]
    else:
        ended_length = open_length = position + 1 - length
    averaged = _averaged(texts, ended_length, options)
    # An end token counts only among the K best of the 2 K candidates; of those that have not
    # ended, and there are K at least, the K best stay open.
    counts = ended & (jnp.arange(2 * beams) < beams) & ~state.done[:, None]
    pool = state.pool.merged(averaged.only(counts))
    onward = jnp.argsort(ended, axis=1, stable=True)[:, :beams]
    best = averaged if options.prompt_in_length else averaged.pick(onward)
    worst = pool.score.min(axis=1)
    enough = (worst > -jnp.inf) & (options.early_stopping | (worst >= best.score[:, 0]))
    done = state.done | enough
    texts, parent = texts.pick(onward), jnp.take_along_axis(parent, onward, axis=1)
    at_limit = position + 1 >= limit
    closing = at_limit & ~(done if options.prompt_in_length else state.done)
    pool = pool.merged(_averaged(texts, open_length, options).only(closing[:, None]))
    rows = (jnp.arange(len(parent))[:, None] * beams + parent).reshape(-1)
    cache = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=1), state.cache)
    return _State(texts, pool, done | at_limit, position + 1, cache)


def _candidates(
    state: _State, logits: jax.Array, length: jax.Array, options: Decoding, eos: int
) -> tuple[Texts, jax.Array, jax.Array]:
    """The 2 K best of all texts that are a token longer, best first.

    Returns: (the texts, int32 [B, 2 K] which open text each goes on, bool [B, 2 K] whether it has
      ended).
    """
    position, opened = state.position, state.open
    batch, beams, total = opened.tokens.shape
    vocab = logits.shape[-1]
    logp = jax.nn.log_softmax(logits)
    seen = seen_tokens(opened.tokens.reshape(-1, total), position, vocab)
    scores = process(logp, seen, position, eos, options).reshape(batch, beams, vocab)
    forced = (position < length)[:, None]
    prompt = opened.tokens[:, :, position, None]  # of use where forced
    only = jnp.where(jnp.arange(vocab) == prompt, 0.0, -jnp.inf)
    scores = jnp.where(forced[..., None], only, scores) + opened.score[..., None]
    score, index = jax.lax.top_k(scores.reshape(batch, -1), 2 * beams)
    parent, token = index // vocab, index % vocab
    logp = jnp.take_along_axis(logp.reshape(batch, -1), index, axis=1)
    texts = opened.pick(parent)
    texts = Texts(
        texts.tokens.at[:, :, position].set(token),
        texts.log_probabilities.at[:, :, position].set(jnp.where(forced, 0.0, logp)),
        texts.length + ~forced,
        score,
    )
    return texts, parent, (token == eos) & ~forced


def _averaged(texts: Texts, tokens: jax.Array, options: Decoding) -> Texts:
    """Scores divided by a power of the length, `tokens` int32 [B] or [1]."""
    length = jnp.maximum(tokens, 1).astype(jnp.float32)  # below 1 only while prompts are forced
    return texts._replace(score=texts.score / length[:, None] ** options.length_penalty)
