"""BLIP's three objectives as pure functions of arrays.

ITC, image-text contrast against a momentum encoder and a queue (paper, sections 3.2 and 4.1);
ITM, image-text matching with hard negatives (3.2); LM, language modelling of the image-grounded
decoder (3.2).

B rows of the batch, K keys (the batch's momentum features, then the queue's), Q queue, E embedding.
G groups of b pairs: negatives are drawn within a group, as the original does on each GPU.
T text tokens, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# Far below any similarity over the smallest temperature (1 / 0.001), and still finite.
MASKED_LOGIT = -1e9


class Queue(NamedTuple):
    """Momentum features of past pairs, a ring.

    Attributes:
      image, text: float32 [Q, E], unit length.
      group: int32 [Q], what marks rows as positives of each other (see `itc_loss`).
      valid: bool [Q], False where nothing has been written yet or the pair was skipped.
      pointer: int32 [], where the next pair goes.
    """

    image: jax.Array
    text: jax.Array
    group: jax.Array
    valid: jax.Array
    pointer: jax.Array


def init_queue(size: int, embed_dim: int, key: jax.Array, random_init: bool = False) -> Queue:
    """Returns an empty queue.

    With `random_init` it begins as the original's does: random unit vectors, taken as negatives.
    """
    image_key, text_key = jax.random.split(key)
    image = jax.random.normal(image_key, (size, embed_dim))
    text = jax.random.normal(text_key, (size, embed_dim))
    return Queue(
        image / jnp.linalg.norm(image, axis=-1, keepdims=True),
        text / jnp.linalg.norm(text, axis=-1, keepdims=True),
        jnp.full((size,), -1, jnp.int32),
        jnp.full((size,), random_init),
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
    # A batch that is larger than the queue leaves only its last Q pairs.
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
    features: jax.Array,
    target_features: jax.Array,
    keys: jax.Array,
    positive: jax.Array,
    valid: jax.Array,
    temperature: jax.Array,
    alpha: jax.Array | float,
) -> jax.Array:
    """Returns the image-text contrastive loss in one direction, one value per row.

    Targets are soft: alpha times the momentum encoder's distribution, the rest spread evenly over
    the positives. Source: `BLIP_Pretrain.forward`, models/blip_pretrain.py, and, for several
    positives, models/blip_retrieval.py of the original.

    Args:
      features: float32 [B, E], online features of one modality, unit length.
      target_features: float32 [B, E], momentum features of the same.
      keys: float32 [K, E], momentum features of the other modality.
      positive: bool [B, K], True where the key belongs to the row; at least one a row.
      valid: bool [K], keys that take part.
      temperature: divides the similarities.
      alpha: weight of the soft targets, 0 … 1.

    Returns: float32 [B], cross-entropy. One row of two keys with similarities 1 and 0, the first
      its positive, temperature 1, alpha 0: log(1 + e^-1) = 0.3133.
    """
    # The targets are constants: they give no gradient to the features or the temperature.
    logits = jnp.where(valid, target_features @ keys.T / temperature, MASKED_LOGIT)
    hard = positive & valid
    hard = hard / jnp.maximum(hard.sum(axis=-1, keepdims=True), 1)
    soft = jax.nn.softmax(logits, axis=-1)
    targets = jax.lax.stop_gradient(alpha * soft + (1 - alpha) * hard)
    logits = jnp.where(valid, features @ keys.T / temperature, MASKED_LOGIT)
    return optax.softmax_cross_entropy(logits, targets)


def draw_hard_negatives(
    key: jax.Array, similarity: jax.Array, valid_negatives: jax.Array, floor: float = 1e-4
) -> jax.Array:
    """Draws one negative column per row by softmax(similarity) + floor over the valid ones.

    The original (models/blip_pretrain.py) draws by `torch.multinomial`, which fails when a row
    has no candidate; here such a row gets index 0 and its loss no weight
    (`valid_negatives.any(-1)`).

    Args:
      similarity: float32 [G, b, b], divided by the temperature.
      valid_negatives: bool [G, b, b], False on the diagonal and where the two belong together.
      floor: gives pairs that are unlike a chance too. The retrieval recipe has 0.

    Returns: int32 [G, b], index within the group.
    """
    weights = jax.nn.softmax(similarity, axis=-1) + floor
    # With a lower bound, so that a weight that underflows is still preferred to an invalid one.
    logits = jnp.where(valid_negatives, jnp.log(jnp.maximum(weights, 1e-30)), -jnp.inf)
    logits = jnp.where(valid_negatives.any(-1, keepdims=True), logits, 0.0)
    drawn = jax.random.categorical(key, logits, axis=-1)
    return jnp.where(valid_negatives.any(-1), drawn, 0).astype(jnp.int32)


def itm_loss(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the cross-entropy of match and no match, one value per row.

    Args:
      logits: float32 [..., 2], no match and match.
      label: int [...], 1 where text and image belong together.

    Returns: float32 [...]. Logits (0, 0) give log 2 = 0.6931 whatever the label.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def lm_loss(
    logits: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    prompt_length: int = 0,
    smoothing: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """Returns the cross-entropy of each next token, with label smoothing as in PyTorch.

    Source: `BertLMHeadModel.forward` (models/med.py) and `BLIP_Decoder.forward` (models/blip.py).

    Args:
      logits: float32 [B, T, V]; position t predicts token t + 1.
      ids: int [B, T]; mask: bool [B, T], False at pads, which are not predicted.
      prompt_length: tokens at the head of every text, [DEC] counted, that are given and so not
        learned.
      smoothing: part of the target that is spread evenly over the vocabulary.

    Returns: (float32 [B, T - 1], weight float32 [B, T - 1]): the losses and which of them count.
      Even logits over V words give log V.
    """
    # Neither a one-hot target nor log-probabilities, of [B, T, V] each, and no part of the logits:
    # the TPU compiler would store them all. Of the last position, which predicts nothing, the loss
    # is left out instead.
    following = jnp.roll(ids, -1, axis=1)
    target = jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0]
    even = logits.mean(axis=-1)
    loss = jax.nn.logsumexp(logits, axis=-1) - (1 - smoothing) * target - smoothing * even
    loss = loss[:, :-1]
    return loss, lm_weight(mask, prompt_length)


def lm_weight(mask: jax.Array, prompt_length: int = 0) -> jax.Array:
    """Returns which next tokens count, float32 [B, T - 1], of mask bool [B, T]."""
    position = jnp.arange(1, mask.shape[1])
    return (mask[:, 1:] & (position >= prompt_length)).astype(jnp.float32)
