"""BLIP: a vision transformer, the MED text transformer, and the heads that align and match.

B texts, C images, S pixels a side, N image tokens, T text tokens, E embedding, V vocabulary.
Texts come tokenised with [CLS] at position 0; each method puts there the token of its role.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn.attention import CrossAttentionContext, KVCache
from blip_jax.nn.configs import BlipConfig
from blip_jax.nn.layers import Dense
from blip_jax.nn.med import Med
from blip_jax.nn.vit import ViT

# Parameters that the momentum encoder lacks; it has all that compute the ITC features, and also the
# text encoder's unused cross-attention, as in the original, so that checkpoints match.
NOT_IN_MOMENTUM = ("decoder_", "lm_head", "itm_head", "temperature")


class Blip(nn.Module):
    """The trunk with all heads of pre-training. `BLIP_Pretrain` of models/blip_pretrain.py."""

    config: BlipConfig

    def setup(self):
        config = self.config
        self.vit = ViT(config)
        self.med = Med(config)
        self.vision_proj = Dense(config.embed_dim, config.vit.kernel_std)
        self.text_proj = Dense(config.embed_dim, config.med.kernel_std)
        self.itm_head = Dense(2, config.med.kernel_std)

    def encode_image(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps normalised images float [C, S, S, 3] to image tokens [C, N, D], [CLS] first."""
        return self.vit(images, train)

    def image_features(self, tokens: jax.Array) -> jax.Array:
        """Maps image tokens to float32 [C, E] of unit length, aligned with `text_features`."""
        return l2_normalize(self.vision_proj(tokens[:, 0].astype(jnp.float32)))

    def text_features(self, ids: jax.Array, mask: jax.Array, train: bool = False) -> jax.Array:
        """Maps ids int [B, T] and mask bool [B, T] to float32 [B, E] of unit length."""
        states = self.encode_text(ids, mask, train)
        return l2_normalize(self.text_proj(states[:, 0].astype(jnp.float32)))

    def encode_text(self, ids: jax.Array, mask: jax.Array, train: bool = False) -> jax.Array:
        """Returns unimodal text states [B, T, D]."""
        return self.med.encode(ids, mask, train=train)

    def image_context(self, tokens: jax.Array, role: str) -> CrossAttentionContext:
        """Maps image tokens to what cross-attention in `role` ("encoder", "decoder") reads."""
        return self.med.project_context(tokens, role)

    def decoding_contexts(self, tokens: jax.Array) -> tuple[CrossAttentionContext, ...]:
        """Maps image tokens to what `decode_step` reads, a context for each layer."""
        return self.med.project_decoding_contexts(tokens)

    def encode_text_with_image(
        self,
        ids: jax.Array,
        mask: jax.Array,
        context: CrossAttentionContext,
        context_index: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Returns image-grounded text states [B, T, D]; [ENC] takes position 0.

        `context_index`: which texts read another image; see `attention.CrossAttention`.
        """
        return self.med.encode(
            with_enc_token(ids, self.config), mask, (context,), context_index, train
        )

    def itm_logits(
        self,
        ids: jax.Array,
        mask: jax.Array,
        context: CrossAttentionContext,
        context_index: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Returns float32 [B, 2]: no match, match."""
        states = self.encode_text_with_image(ids, mask, context, context_index, train)
        return self.itm_head(states[:, 0].astype(jnp.float32))

    def lm_logits(
        self, ids: jax.Array, mask: jax.Array, context: CrossAttentionContext, train: bool = False
    ) -> jax.Array:
        """Returns float32 [B, T, V]: position t predicts token t + 1; [DEC] takes position 0."""
        ids = set_first_token(ids, self.config.med.dec_token)
        return self.med.decode(ids, mask, context, train=train)

    def decode_step(self, ids, contexts, cache, index) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Returns (logits float32 [B, t, V], cache); see `Med.decode_step`."""
        return self.med.decode_step(ids, contexts, cache, index)


def l2_normalize(x: jax.Array) -> jax.Array:
    """Scales to unit length along the last axis, with PyTorch's floor of 1e-12 (F.normalize)."""
    # max(|x|, eps) as sqrt(max(x.x, eps^2)): the gradient at 0 is finite (1 / eps, as PyTorch's).
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def set_first_token(ids: jax.Array, token: int) -> jax.Array:
    """ids with position 0 overwritten, as the original does (the paper says: appended)."""
    return jnp.asarray(ids).at[:, 0].set(token)


def with_enc_token(ids: jax.Array, config: BlipConfig) -> jax.Array:
    """ids of texts to be read with an image: [ENC] at position 0, unless the quirk says [CLS]."""
    return ids if "cls_for_enc" in config.quirks else set_first_token(ids, config.med.enc_token)


def init_cache(config: BlipConfig, batch: int, length: int) -> tuple[KVCache, ...]:
    """Returns an empty KV cache for each layer: zeros [B, length, H, K] in the compute dtype."""
    med = config.med
    zeros = jnp.zeros((batch, length, med.heads, med.width // med.heads), config.dtype)
    return tuple(KVCache(zeros, zeros) for _ in range(med.depth))


def momentum_params(params: dict) -> dict:
    """Returns the part of `params` of which the momentum encoder keeps a slow copy."""
    kept = {}
    for name, value in params.items():
        if name.startswith(NOT_IN_MOMENTUM):
            continue
        kept[name] = momentum_params(value) if isinstance(value, dict) else value
    return kept
