"""Scores of candidate answers in a dialog about an image, by the ITM head.

D local devices, b rounds a device, S pixels a side, C candidates, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from blip_jax.data.images import normalize
from blip_jax.models.functions import PmappedFunction

if TYPE_CHECKING:
    from blip_jax.models.model import Model


def dialog_function(model: Model, chunk: int) -> PmappedFunction:
    """Returns a function of images and the texts of rounds to scores of their candidates.

    It takes images uint8 [D * b, S, S, 3], ids int32 and mask bool [D * b, C, T], and gives
    float32 [D * b, C]: the log-odds of a match, logarithm of P(match) / P(no match). They rank as
    the probability does, but those of sure answers do not round to the same number.

    Args:
      chunk: candidates of a round that are read at a time. A round is read after the other, so that
        memory does not grow with b and C beyond the image tokens.
    """

    def score(apply, images, ids, mask):
        tokens = apply("encode_image", normalize(images))
        count, length = ids.shape[1:]
        size = min(chunk, count)
        chunks = -(-count // size)
        padding = (0, 0), (0, chunks * size - count), (0, 0)
        # The padding repeats nothing: its first token is read, so that no softmax is over nothing.
        ids = jnp.pad(ids, padding).reshape(-1, chunks, size, length)
        mask = jnp.pad(mask, padding).at[:, count:, 0].set(True).reshape(ids.shape)

        def of_round(row):
            image, ids, mask = row
            context = apply("image_context", image[None], "encoder")

            def of_chunk(part):
                return log_odds(apply("itm_logits", *part, context))

            return jax.lax.map(of_chunk, (ids, mask)).reshape(-1)[:count]

        return jax.lax.map(of_round, (tokens, ids, mask))

    return PmappedFunction(score, model)


def log_odds(logits: jax.Array) -> jax.Array:
    """Maps ITM logits [..., 2] to log P(match) - log P(no match)."""
    return logits[..., 1] - logits[..., 0]
