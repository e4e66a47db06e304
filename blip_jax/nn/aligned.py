"""Hugging Face's `BlipModel`: image and text embeddings with projections of their own.

No checkpoint of the original has this form; it is here so that theirs can be used.
B images or texts, S pixels a side, T text tokens, E embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn.blip import l2_normalize
from blip_jax.nn.configs import BlipConfig
from blip_jax.nn.layers import Dense, LayerNorm
from blip_jax.nn.med import Med
from blip_jax.nn.vit import ViT


class Aligned(nn.Module):
    """`BlipModel` of transformers' models/blip/modeling_blip.py."""

    config: BlipConfig

    def setup(self):
        vit, med = self.config.vit, self.config.med
        self.vit = ViT(self.config)
        self.med = Med(self.config)
        self.pooler = Dense(med.width, med.kernel_std)
        self.vision_proj = Dense(self.config.embed_dim, vit.kernel_std, use_bias=False)
        self.text_proj = Dense(self.config.embed_dim, med.kernel_std, use_bias=False)

    def encode_image(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps normalised images float [B, S, S, 3] to image tokens [B, N, D], [CLS] first."""
        return self.vit(images, train)

    def image_features(self, tokens: jax.Array) -> jax.Array:
        """Maps image tokens to float32 [B, E] of unit length, aligned with `text_features`."""
        # Applies the final norm a second time, as transformers does (`BlipVisionModel.forward`).
        params = {"params": self.vit.variables["params"]["norm"]}
        norm = LayerNorm(self.config.vit.eps, parent=None)
        return l2_normalize(self.vision_proj(norm.apply(params, tokens[:, 0].astype(jnp.float32))))

    def text_features(self, ids: jax.Array, mask: jax.Array, train: bool = False) -> jax.Array:
        """Maps ids int [B, T] and mask bool [B, T] to float32 [B, E] of unit length."""
        states = self.med.encode(ids, mask, train=train)
        return l2_normalize(self.text_proj(jnp.tanh(self.pooler(states[:, 0].astype(jnp.float32)))))

    def encode_text_with_image(
        self, ids: jax.Array, mask: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """Returns image-grounded text states [B, T, D]."""
        return self.med.encode(ids, mask, (self.med.project_context(tokens, "encoder"),))
