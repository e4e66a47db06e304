"""Tokens and features of images and of clips, the same functions for both.

B images or clips, F frames, S pixels a side, N image tokens, W width, E embedding. `apply` calls a
method of a network, as `apply("encode_image", images)`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from blip_jax.nn.blip import l2_normalize


def image_tokens(apply: Callable[..., jax.Array], images: jax.Array) -> jax.Array:
    """Returns tokens [B, N, W] of normalised images [B, S, S, 3], or [B, F N, W] of clips.

    Clips are [B, F, S, S, 3]. The tokens of all frames are in a row, in the order of the frames, so
    that a text reads them all at once. Source: `evaluation` of the original's
    eval_retrieval_video.py.
    """
    tokens = _frame_tokens(apply, images)
    return tokens.reshape(len(images), -1, tokens.shape[-1])


def image_tokens_and_features(
    apply: Callable[..., jax.Array], images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns `image_tokens`, and features float32 [B, E] of unit length, aligned with texts'.

    The features of a clip are the mean of those of its frames, again of unit length. The original
    takes the mean before the frames' features are normalised.
    """
    tokens = _frame_tokens(apply, images)
    features = apply("image_features", tokens)
    if images.ndim > 4:
        features = l2_normalize(features.reshape(len(images), -1, features.shape[-1]).mean(1))
    return tokens.reshape(len(images), -1, tokens.shape[-1]), features


def _frame_tokens(apply: Callable[..., jax.Array], images: jax.Array) -> jax.Array:
    """Returns the tokens of each image or frame by itself, [B, N, W] or [B F, N, W]."""
    return apply("encode_image", jnp.reshape(images, (-1, *images.shape[-3:])))
