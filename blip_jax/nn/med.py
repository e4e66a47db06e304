"""MED, the multimodal mixture of encoder-decoder: one text transformer in three roles.

B texts, T tokens, C context rows (images, or questions), N their tokens, L layers, H heads, K head
width, D width, V vocabulary.

    role       self-attention          cross-attention   is used for
    encoder    bidirectional           no                ITC (unimodal text)
    encoder    bidirectional           yes               ITM (image-grounded encoder)
    decoder    causal, its own layer   yes               LM, captions

Which self-attention runs is a static argument, what may see what is a mask (`masks.py`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn import masks
from blip_jax.nn.attention import (
    CrossAttention,
    CrossAttentionContext,
    KVCache,
    SelfAttention,
)
from blip_jax.nn.configs import BlipConfig, MedConfig, param_group_name
from blip_jax.nn.layers import LayerNorm, dense, scan_layers

EPS = 1e-12
STACKED = "layer"  # name of the parameters of all layers, stacked


class Med(nn.Module):
    """The text transformer with its context projections and LM head.

    `num_images`: context rows that each text reads at once, 2 in NLVR2; each has its own
    cross-attention.
    """

    config: BlipConfig
    num_images: int = 1

    def setup(self):
        config, dtype = self.config.med, jnp.dtype(self.config.dtype)
        for role in ("encoder", "decoder"):  # a shared part is created once, under its common name
            name = param_group_name(config, "embeddings", role)
            if not hasattr(self, name):
                setattr(self, name, Embeddings(config, dtype))
            for name in cross_attentions(config, role, self.num_images):
                if not hasattr(self, f"{name}_context"):
                    setattr(self, f"{name}_context", ContextProjection(config, dtype))
        self.layers = MedLayers(self.config)
        self.separate_layers = SeparateMedLayers(config, dtype)
        self.lm_head = LMHead(config, dtype)

    def project_context(
        self, tokens: jax.Array, role: str, mask: jax.Array | None = None, index: int = 0
    ) -> CrossAttentionContext:
        """Maps tokens [C, N, any width] and mask bool [C, N] to what cross-attention reads.

        `role` and `index` name the cross-attention.
        """
        name = cross_attentions(self.config.med, role, self.num_images)[index]
        return CrossAttentionContext(*getattr(self, f"{name}_context")(tokens), mask)

    def encode(
        self,
        ids: jax.Array,
        mask: jax.Array,
        contexts: tuple[CrossAttentionContext, ...] = (),
        context_index: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Maps ids int [B, T] and mask bool [B, T] to bidirectional states [B, T, D].

        Without `contexts` cross-attention is skipped (unimodal text).
        `context_index`: see `attention.CrossAttention`.
        """
        x = self._embeddings("encoder")(ids, 0, train)
        return self.layers(
            x, masks.padding(mask), contexts, context_index, role="encoder", train=train
        )

    def decode(
        self,
        ids: jax.Array,
        mask: jax.Array,
        context: CrossAttentionContext,
        context_index: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Maps ids int [B, T] and mask bool [B, T] causally to next-token logits float32 [B, T, V].

        `context_index`: see `attention.CrossAttention`.
        """
        embeddings = self._embeddings("decoder")
        x = embeddings(ids, 0, train)
        x = self.layers(
            x, masks.decoder(mask), (context,), context_index, role="decoder", train=train
        )
        return self.lm_head(x, embeddings.word)

    def decode_step(
        self,
        ids: jax.Array,
        contexts: tuple[CrossAttentionContext, ...],
        cache: tuple[KVCache, ...],
        index: jax.Array | int,
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Maps ids int [B, t], which follow `index` tokens in the cache, to (logits, cache).

        Contexts and caches are one a layer; the parameters are those of `separate_layers`.
        """
        embeddings = self._embeddings("decoder")
        allowed = masks.cached(index, ids.shape[1], cache[0].key.shape[1])
        x = embeddings(ids, index, train=False)
        x, cache = self.separate_layers(x, allowed, contexts, cache, index)
        return self.lm_head(x, embeddings.word), cache

    def _embeddings(self, role: str) -> nn.Module:
        return getattr(self, param_group_name(self.config.med, "embeddings", role))


def cross_attentions(config: MedConfig, role: str, num_images: int = 1) -> list[str]:
    """Returns names of the cross-attentions of `role`, one for each image that a text reads."""
    name = param_group_name(config, "cross_attention", role)
    return [name, *(f"{name}_{number}" for number in range(2, num_images + 1))]


class Embeddings(nn.Module):
    """Word and position embeddings, summed and normed (no token types)."""

    config: MedConfig
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        normal = nn.initializers.normal(config.embedding_std)
        self.word = self.param("word", normal, (config.vocab_size, config.width))
        self.position = self.param("position", normal, (config.max_length, config.width))
        self.norm = LayerNorm(EPS)
        self.dropout = nn.Dropout(config.dropout)

    def __call__(self, ids: jax.Array, index: jax.Array | int, train: bool) -> jax.Array:
        """Maps ids int [B, T], the first at position `index`, to [B, T, D]."""
        word = jnp.take(self.word, ids, axis=0, mode="clip")
        position = jax.lax.dynamic_slice_in_dim(self.position, index, ids.shape[1])
        x = self.norm(word + position).astype(self.dtype)
        return self.dropout(x, deterministic=not train)


class ContextProjection(nn.Module):
    """Keys and values of every layer's cross-attention, from tokens in one product each.

    The original projects the same tokens again in every pass (models/med.py); here the ITM and LM
    passes of a step, and all tokens of a caption, read one projection.
    """

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        config = self.config
        heads = (config.heads, config.width // config.heads)
        normal = nn.initializers.normal(config.kernel_std)
        projected = []
        for name in ("key", "value"):
            shape = (config.depth, tokens.shape[-1], *heads)
            kernel = self.param(f"{name}_kernel", normal, shape).astype(self.dtype)
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (config.depth, *heads))
            # Transposed after the product, because on CPU a product that gives `lchnk` is slower.
            y = jnp.einsum("cnd,ldhk->cnlhk", tokens.astype(self.dtype), kernel)
            projected.append((y + bias.astype(self.dtype)).transpose(2, 0, 3, 1, 4))
        return tuple(projected)


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
        sliced = tuple(CrossAttentionContext(0, 0, nn.broadcast, 0) for _ in contexts)
        inputs = (sliced, 0, nn.broadcast, nn.broadcast)
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
        y = dense(config.mlp_dim, config.kernel_std, dtype=self.dtype, name=f"{name}_in")(x)
        y = nn.gelu(y, approximate=False)
        y = dense(config.width, config.output_std, dtype=self.dtype, name=f"{name}_out")(y)
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


class LMHead(nn.Module):
    """Dense, GELU, norm, then the tied word embedding with a bias of its own."""

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, word: jax.Array) -> jax.Array:
        """Maps x [B, T, D] and word [V, D] to logits float32 [B, T, V]."""
        config = self.config
        x = dense(config.width, config.kernel_std, dtype=self.dtype, name="dense")(x)
        x = LayerNorm(EPS, self.dtype, name="norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        word = word.astype(self.dtype)
        return jnp.einsum("btd,vd->btv", x, word, preferred_element_type=jnp.float32) + bias
