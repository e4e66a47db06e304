"""ITC, image-text contrast against a momentum encoder and a queue (paper, sections 3.2 and 4.1).

B rows of the batch, K keys (the batch's momentum features, then the queue's), Q queue, E embedding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Far below any similarity over the smallest temperature (1 / 0.001), and still finite.
MASKED = -1e9


class Queue(NamedTuple):
    """Momentum features of past pairs, a ring.

    Attributes:
      image, text: float32 [Q, E], unit length.
      group: int32 [Q], what marks rows as positives of each other (see `itc_loss`).
      valid: bool [Q], False where nothing has been written yet or the pair was set aside.
      pointer: int32 [], where the next pair goes.
    """

    image: jax.Array
    text: jax.Array
    group: jax.Array
    valid: jax.Array
    pointer: jax.Array


def init_queue(size: int, embed: int, key: jax.Array, random_start: bool = False) -> Queue:
    """An empty queue.

    With `random_start` it begins as the original's does: random unit vectors, taken as negatives.
    """
    image_key, text_key = jax.random.split(key)
    image = jax.random.normal(image_key, (size, embed))
    text = jax.random.normal(text_key, (size, embed))
    return Queue(
        image / jnp.linalg.norm(image, axis=-1, keepdims=True),
        text / jnp.linalg.norm(text, axis=-1, keepdims=True),
        jnp.full((size,), -1, jnp.int32),
        jnp.full((size,), random_start),
        jnp.zeros((), jnp.int32),
    )


def enqueue(
    queue: Queue, image: jax.Array, text: jax.Array, group: jax.Array, valid: jax.Array
) -> Queue:
    """Writes a batch over the oldest pairs. Any batch size, also one that does not divide Q.

    Args:
      image, text: float32 [B, E]; group: int32 [B]; valid: bool [B].
    """
    size = queue.valid.shape[0]
    batch = valid.shape[0]
    # Of a batch larger than the queue only the last Q pairs would be left.
    first = max(batch - size, 0)
    at = (queue.pointer + jnp.arange(first, batch)) % size
    return Queue(
        queue.image.at[at].set(image[first:]),
        queue.text.at[at].set(text[first:]),
        queue.group.at[at].set(group[first:]),
        queue.valid.at[at].set(valid[first:]),
        (queue.pointer + batch) % size,
    )


def itc_loss(
    feature: jax.Array,
    teacher: jax.Array,
    keys: jax.Array,
    positive: jax.Array,
    valid: jax.Array,
    temperature: jax.Array,
    alpha: jax.Array | float,
) -> jax.Array:
    """One direction of the contrast, a value a row.

    Targets are soft: alpha times what the momentum encoder finds, the rest spread evenly over the
    positives. Source: `BLIP_Pretrain.forward`, models/blip_pretrain.py, and, for several
    positives, models/blip_retrieval.py of the original.

    Args:
      feature: float32 [B, E], online features of one modality, unit length.
      teacher: float32 [B, E], momentum features of the same.
      keys: float32 [K, E], momentum features of the other modality.
      positive: bool [B, K], True where the key belongs to the row; at least one a row.
      valid: bool [K], keys that take part.
      temperature: divides the similarities.
      alpha: weight of the soft targets, 0 … 1.

    Returns: float32 [B], cross-entropy. One row of two keys with similarities 1 and 0, the first
      its positive, temperature 1, alpha 0: log(1 + e^-1) = 0.3133.
    """
    # The targets are constants: no gradient, neither to the features nor to the temperature.
    logits = jnp.where(valid, teacher @ keys.T / temperature, MASKED)
    hard = positive & valid
    hard = hard / jnp.maximum(hard.sum(axis=-1, keepdims=True), 1)
    soft = jax.nn.softmax(logits, axis=-1)
    targets = jax.lax.stop_gradient(alpha * soft + (1 - alpha) * hard)
    logits = jnp.where(valid, feature @ keys.T / temperature, MASKED)
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)
