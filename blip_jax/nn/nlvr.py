"""Natural language visual reasoning: is a statement true of two images?

B statements, S pixels a side, N image tokens, T text tokens, D text width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn.attention import CrossAttentionContext
from blip_jax.nn.blip import with_enc_token
from blip_jax.nn.configs import BlipConfig
from blip_jax.nn.layers import Dense
from blip_jax.nn.med import Med
from blip_jax.nn.vit import ViT


class Nlvr(nn.Module):
    """`BLIP_NLVR` of the original's models/blip_nlvr.py: one cross-attention for each image."""

    config: BlipConfig

    def setup(self):
        config = self.config.med
        self.vit = ViT(self.config)
        self.med = Med(self.config, num_images=2)
        self.classifier_in = Dense(config.width, config.kernel_std)
        self.classifier_out = Dense(2, config.kernel_std)

    def encode_image(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps normalised images float [B, S, S, 3] to image tokens [B, N, W], [CLS] first."""
        return self.vit(images, train)

    def image_contexts(
        self, first: jax.Array, second: jax.Array
    ) -> tuple[CrossAttentionContext, CrossAttentionContext]:
        """Maps tokens of the first and of the second images to what the statements read."""
        return tuple(
            self.med.project_context(tokens, "encoder", index=number)
            for number, tokens in enumerate((first, second))
        )

    def logits(
        self,
        ids: jax.Array,
        mask: jax.Array,
        contexts: tuple[CrossAttentionContext, CrossAttentionContext],
        train: bool = False,
    ) -> jax.Array:
        """Maps ids int [B, T] and mask bool [B, T] to float32 [B, 2]: false, true."""
        states = self.med.encode(with_enc_token(ids, self.config), mask, contexts, train=train)
        x = jax.nn.relu(self.classifier_in(states[:, 0].astype(jnp.float32)))
        return self.classifier_out(x)
