"""ITM, image-text matching with hard negatives (paper, section 3.2).

G groups of b pairs each; negatives are drawn within a group, as the original does on each GPU.
"""

import jax
import jax.numpy as jnp


def draw_hard_negatives(
    key: jax.Array, similarity: jax.Array, possible: jax.Array, floor: float = 1e-4
) -> jax.Array:
    """For each row one column, drawn by softmax(similarity) + floor among the possible ones.

    The original (models/blip_pretrain.py) draws by `torch.multinomial`, which fails when a row
    has no candidate; here such a row gets index 0 and its loss no weight (`possible.any(-1)`).

    Args:
      similarity: float32 [G, b, b], divided by the temperature.
      possible: bool [G, b, b], False on the diagonal and wherever the two belong together.
      floor: keeps unlike pairs in play. The retrieval recipe has 0.

    Returns: int32 [G, b], index within the group.
    """
    weights = jax.nn.softmax(similarity, axis=-1) + floor
    # Bounded below, so that a weight that underflows is still preferred to what is impossible.
    logits = jnp.where(possible, jnp.log(jnp.maximum(weights, 1e-30)), -jnp.inf)
    logits = jnp.where(possible.any(-1, keepdims=True), logits, 0.0)
    drawn = jax.random.categorical(key, logits, axis=-1)
    return jnp.where(possible.any(-1), drawn, 0).astype(jnp.int32)


def itm_loss(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy, a value a row.

    Args:
      logits: float32 [..., 2], no match and match.
      label: int [...], 1 where text and image belong together.

    Returns: float32 [...]. Logits (0, 0) give log 2 = 0.6931 whatever the label.
    """
    logp = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0]
