"""The layers of MED (med.py): scanned as one stack, or one by one with a cache.

B texts, T tokens, L layers, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn.attention import (
    CrossAttention,
    CrossAttentionContext,
    KVCache,
    SelfAttention,
)
from blip_jax.nn.configs import BlipConfig, MedConfig, param_group_name
from blip_jax.nn.layers import Dense, LayerNorm, scan_layers

EPS = 1e-12
STACKED = "layer"  # name of the parameters of all layers, stacked


class MedLayers(nn.Module):
    """The stack of layers, scanned."""

    config: BlipConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        contexts: tuple[CrossAttentionContext, ...],
        context_index: jax.Array | None = None,
        *,
        role: str,
        train: bool,
    ) -> jax.Array:
        config, dtype = self.config.med, jnp.dtype(self.config.dtype)
        merge_weights = self.merge_weights() if len(contexts) > 1 else None
        contexts = tuple(context.with_stack(*x.shape[:2]) for context in contexts)
        axes = tuple(context.layer_axes for context in contexts)
        inputs = (axes, 0, nn.broadcast, nn.broadcast)
        layers = scan_layers(MedLayer, self.config, config.depth, inputs)
        layers = layers(config, dtype, role, train, name=STACKED)
        x, _ = layers(x, contexts, merge_weights, mask, context_index)
        return x

    def merge_weights(self) -> tuple[jax.Array, jax.Array]:
        """Returns each layer's weights for merging two images' outputs: [L, 2 * D, D] and [L, D].

        The first `first_learned_merge_layer` layers take the mean, which is the dense layer with
        halves on its diagonals; the others learn it (models/nlvr_encoder.py of the original).
        """
        config = self.config.med
        first, width = min(config.first_learned_merge_layer, config.depth), config.width
        half = jnp.eye(width) / 2
        mean = jnp.broadcast_to(jnp.concatenate([half, half]), (first, 2 * width, width))
        bias = jnp.zeros((first, width))
        learned = config.depth - first
        if not learned:
            return mean, bias
        normal = nn.initializers.normal(config.kernel_std)
        kernel = self.param("merge_kernel", normal, (learned, 2 * width, width))
        offset = self.param("merge_bias", nn.initializers.zeros, (learned, width))
        return jnp.concatenate([mean, kernel]), jnp.concatenate([bias, offset])


class SeparateMedLayers(nn.Module):
    """The layers of the decoder one by one, for generation; parameters of `separate_layers`."""

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        contexts: tuple[CrossAttentionContext, ...],
        cache: tuple[KVCache, ...],
        index: jax.Array | int,
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        kept = []
        for number, (context, own) in enumerate(zip(contexts, cache, strict=True)):
            layer = MedLayer(self.config, self.dtype, "decoder", False, name=f"layer_{number}")
            x, own = layer(x, (context,), None, mask, None, own, index)
            kept.append(own)
        return x, tuple(kept)


def separate_layers(params: dict) -> dict:
    """Returns the parameters that `decode_step` takes: those of each text layer by themselves.

    Made once before a loop over tokens: with stacked layers, every token would copy each layer's
    part out of the stack, which on a CPU took a quarter of the loop's time.
    """
    med = dict(params["med"])
    layers = med.pop("layers")[STACKED]
    depth = jax.tree.leaves(layers)[0].shape[0]
    med["separate_layers"] = {
        f"layer_{number}": jax.tree.map(lambda x, number=number: x[number], layers)
        for number in range(depth)
    }
    return {**params, "med": med}


class MedLayer(nn.Module):
    """Self-attention, cross-attention where there is a context, FFN; each post-norm."""

    config: MedConfig
    dtype: jnp.dtype
    role: str
    train: bool

    @nn.compact
    def __call__(self, x, contexts, merge_weights, mask, context_index, cache=None, index=None):
        """Maps x [B, T, D] to (x, cache); contexts, merge_weights and cache are this layer's."""
        config = self.config
        options = {
            "heads": config.heads,
            "kernel_std": config.kernel_std,
            "output_std": config.output_std,
            "dtype": self.dtype,
            "dropout": config.dropout,
            "train": self.train,
        }
        name = param_group_name(config, "self_attention", self.role)
        attention = SelfAttention(**options, name=name)
        y, cache = attention(x, mask, cache, index)
        x = self.residual(x, y, name)
        if contexts:
            names = cross_attentions(config, self.role, len(contexts))
            read = [
                CrossAttention(**options, name=name)(x, context, context_index)
                for name, context in zip(names, contexts, strict=True)
            ]
            x = self.residual(x, merge_images(read, merge_weights), names[0])
        name = param_group_name(config, "ffn", self.role)
        y = Dense(
            config.mlp_dim, config.kernel_std, dtype=self.dtype, use_gelu=True, name=f"{name}_in"
        )(x)
        y = Dense(config.width, config.output_std, dtype=self.dtype, name=f"{name}_out")(y)
        return self.residual(x, y, name), cache

    def residual(self, x: jax.Array, y: jax.Array, name: str) -> jax.Array:
        y = nn.Dropout(self.config.dropout, deterministic=not self.train)(y)
        return LayerNorm(EPS, self.dtype, name=f"{name}_norm")(x + y)


def merge_images(
    read: list[jax.Array], merge_weights: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
    """Merges what was read of each image [B, T, D] to [B, T, D]; see `MedLayers.merge_weights`."""
    if merge_weights is None:
        return read[0]
    kernel, bias = (x.astype(read[0].dtype) for x in merge_weights)
    return jnp.concatenate(read, axis=-1) @ kernel + bias


def cross_attentions(config: MedConfig, role: str, num_images: int = 1) -> list[str]:
    """Returns names of the cross-attentions of `role`, one for each image that a text reads."""
    name = param_group_name(config, "cross_attention", role)
    return [name, *(f"{name}_{number}" for number in range(2, num_images + 1))]
