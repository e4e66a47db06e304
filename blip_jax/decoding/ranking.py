"""Ranks given texts by their likelihood, as VQA ranks its list of answers.

Q questions, C candidates, R texts, T tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp

from blip_jax import losses
from blip_jax.runtime.errors import UserError


def top_candidates(
    first_logits: jax.Array, first_tokens: jax.Array, k: int, valid: jax.Array | None = None
) -> jax.Array:
    """Returns the k candidates with the likeliest first token, best first; ties by lower index.

    Source: `BLIP_VQA.rank_answer` (models/blip_vqa.py), which scores only these in full.

    Args:
      first_logits: float32 [Q, V], of the token after [DEC].
      first_tokens: int [C], each candidate's token after [DEC].
      valid: bool [C], False for padding, which comes last; None: all are valid.

    Returns: int32 [Q, k]. For logits [0, 3, 2] and first tokens [2, 0, 1, 2] the best three are
      [2, 0, 3].

    Raises:
      UserError: k is not in 1 … C.
    """
    count = first_tokens.shape[0]
    if not 1 <= k <= count:
        raise UserError(f"k is {k}; it must be from 1 to the number of candidates, {count}")
    score = jnp.take(first_logits, first_tokens, axis=-1)
    if valid is not None:
        score = jnp.where(valid, score, -jnp.inf)
    return jax.lax.top_k(score, k)[1]


def log_likelihood(
    logits: jax.Array, ids: jax.Array, mask: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Returns the log-probability of whole texts: the sum over all tokens after the first.

    Args:
      logits: float32 [R, T, V]; position t predicts token t + 1.
      ids: int [R, T], [DEC] first; mask: bool [R, T], False at pads.
      smoothing: of the labels; the original ranks with its training's 0.1.

    Returns: float32 [R]. Even logits over V words give -(tokens - 1) * log V.
    """
    loss, weight = losses.lm_loss(logits, ids, mask, smoothing=smoothing)
    return -(loss * weight).sum(axis=-1)
