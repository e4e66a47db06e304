"""LM, the language modelling loss of the image-grounded decoder (paper, section 3.2)."""

import jax
import jax.numpy as jnp


def lm_loss(
    logits: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    prompt_length: int = 0,
    smoothing: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each next token, with label smoothing as PyTorch's.

    Source: `BertLMHeadModel.forward` (models/med.py) and `BLIP_Decoder.forward` (models/blip.py).

    Args:
      logits: float32 [B, T, V]; position t predicts token t + 1.
      ids: int [B, T]; mask: bool [B, T], False at pads, which are not predicted.
      prompt_length: tokens at the head of every text, [DEC] counted, that are given and so not
        learned.
      smoothing: share of the target that is spread evenly over the vocabulary.

    Returns: (float32 [B, T - 1], weight float32 [B, T - 1]): the losses and which of them count.
      Even logits over V words give log V.
    """
    logp = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    target = jnp.take_along_axis(logp, ids[:, 1:, None], axis=-1)[..., 0]
    loss = -(1 - smoothing) * target - smoothing * logp.mean(axis=-1)
    return loss, lm_weight(mask, prompt_length)


def lm_weight(mask: jax.Array, prompt_length: int = 0) -> jax.Array:
    """Which next tokens count: mask bool [B, T] -> float32 [B, T - 1]."""
    position = jnp.arange(1, mask.shape[1])
    return (mask[:, 1:] & (position >= prompt_length)).astype(jnp.float32)
