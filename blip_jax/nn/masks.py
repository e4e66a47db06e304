"""Boolean attention masks, True = may attend. All masks of the project are made here.

B batch, T text tokens, Q queries, K keys. Each has shape [B or 1, 1 (heads), Q or 1, K].

A text of three tokens and one pad:

    padding          causal           decoder = padding & causal
    1 1 1 0          1 0 0 0          1 0 0 0
    1 1 1 0          1 1 0 0          1 1 0 0
    1 1 1 0          1 1 1 0          1 1 1 0
    1 1 1 0          1 1 1 1          1 1 1 0
"""

import jax
import jax.numpy as jnp


def padding(mask: jax.Array) -> jax.Array:
    """Returns bool [B, 1, 1, T] of mask bool [B, T]: every query sees all tokens except pads."""
    return mask[:, None, None, :]


def causal(length: int) -> jax.Array:
    """Returns bool [1, 1, length, length]: a query sees itself and what comes before it."""
    return jnp.tri(length, dtype=bool)[None, None]


def decoder(mask: jax.Array) -> jax.Array:
    """Returns bool [B, 1, T, T] of mask bool [B, T]: `padding` and `causal` combined."""
    return padding(mask) & causal(mask.shape[1])


def cached(index: jax.Array, queries: int, length: int) -> jax.Array:
    """Queries at positions index … index + queries - 1 over a cache of `length` positions.

    With index 2, two queries and five positions:

        1 1 1 0 0
        1 1 1 1 0

    Returns: bool [1, 1, queries, length].
    """
    position = index + jnp.arange(queries)
    return (jnp.arange(length)[None, :] <= position[:, None])[None, None]
