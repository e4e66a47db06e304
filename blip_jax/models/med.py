"""MED, the multimodal mixture of encoder-decoder: one text transformer in three roles.

B texts, T tokens, C context rows (images), N image tokens, L layers, H heads, K head width,
D width, V vocabulary.

    role       self-attention          cross-attention   is used for
    encoder    bidirectional           no                ITC (unimodal text)
    encoder    bidirectional           yes               ITM (image-grounded encoder)
    decoder    causal, its own layer   yes               LM, captions

Which self-attention runs is a static argument, what may see what is a mask (`masks.py`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.models import masks
from blip_jax.models.attention import CrossAttention, KVCache, LayerNorm, Projection, SelfAttention
from blip_jax.models.configs import SHARING, BlipConfig, MedConfig
from blip_jax.models.scan import scan_layers

EPS = 1e-12


def part_name(config: MedConfig, part: str, role: str) -> str:
    """Name of the parameters of `part` in `role`: its own, or the common one if it is shared."""
    return part if part in SHARING[config.sharing] else f"{role}_{part}"


class Med(nn.Module):
    """The text transformer with its context projection and LM head."""

    config: BlipConfig

    def setup(self):
        config, dtype = self.config.med, jnp.dtype(self.config.dtype)
        for role in ("encoder", "decoder"):  # a shared part is set once, under its common name
            name = part_name(config, "embeddings", role)
            if not hasattr(self, name):
                setattr(self, name, Embeddings(config, dtype))
            name = part_name(config, "cross_attention", role) + "_context"
            if not hasattr(self, name):
                setattr(self, name, ContextProjection(config, dtype))
        self.layers = MedLayers(self.config)
        self.lm_head = LMHead(config, dtype)

    def context(self, tokens: jax.Array, role: str) -> KVCache:
        """[C, N, context width] -> keys and values of all layers, [L, C, N, H, K] each."""
        name = part_name(self.config.med, "cross_attention", role) + "_context"
        return getattr(self, name)(tokens)

    def encode(
        self,
        ids: jax.Array,
        mask: jax.Array,
        context: KVCache | None = None,
        rows: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Bidirectional: ids int [B, T], mask bool [B, T] -> states [B, T, D].

        Without `context` cross-attention is skipped (unimodal text).
        `rows`: see `attention.CrossAttention`.
        """
        x = self._embeddings("encoder")(ids, 0, train)
        x, _ = self.layers(x, masks.padding(mask), context, rows, role="encoder", train=train)
        return x

    def decode(
        self,
        ids: jax.Array,
        context: KVCache,
        mask: jax.Array | None = None,
        cache: KVCache | None = None,
        index: jax.Array | int = 0,
        train: bool = False,
    ) -> tuple[jax.Array, KVCache | None]:
        """Causal: ids int [B, T] -> (next-token logits float32 [B, T, V], cache).

        Either `mask` (bool [B, T], whole texts) or `cache` with `index`, the number of tokens
        that it holds already.
        """
        embeddings = self._embeddings("decoder")
        if cache is None:
            allowed = masks.decoder(mask)
        else:
            allowed = masks.cached(index, ids.shape[1], cache.key.shape[2])
        x = embeddings(ids, index, train)
        x, cache = self.layers(x, allowed, context, None, cache, index, role="decoder", train=train)
        return self.lm_head(x, embeddings.word), cache

    def _embeddings(self, role: str) -> nn.Module:
        return getattr(self, part_name(self.config.med, "embeddings", role))


class Embeddings(nn.Module):
    """Word and position embeddings, summed and normed (no token types)."""

    config: MedConfig
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        normal = nn.initializers.normal(config.embedding_std)
        self.word = self.param("word", normal, (config.vocab, config.width))
        self.position = self.param("position", normal, (config.max_length, config.width))
        self.norm = LayerNorm(EPS)
        self.dropout = nn.Dropout(config.dropout)

    def __call__(self, ids: jax.Array, index: jax.Array | int, train: bool) -> jax.Array:
        """ids int [B, T], the first at position `index` -> [B, T, D]."""
        word = jnp.take(self.word, ids, axis=0, mode="clip")
        position = jax.lax.dynamic_slice_in_dim(self.position, index, ids.shape[1])
        x = self.norm(word + position).astype(self.dtype)
        return self.dropout(x, deterministic=not train)


class ContextProjection(nn.Module):
    """Keys and values of every layer's cross-attention, from image tokens in one product each.

    The original projects the same tokens again in every pass (models/med.py); here the ITM and LM
    passes of a step, and all tokens of a caption, read one projection.
    """

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array) -> KVCache:
        config = self.config
        heads = (config.heads, config.width // config.heads)
        normal = nn.initializers.normal(config.kernel_std)
        projected = []
        for name in ("key", "value"):
            shape = (config.depth, config.context_width, *heads)
            kernel = self.param(f"{name}_kernel", normal, shape).astype(self.dtype)
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (config.depth, *heads))
            y = jnp.einsum("cnd,ldhk->lcnhk", tokens.astype(self.dtype), kernel)
            projected.append(y + bias.astype(self.dtype)[:, None, None])
        return KVCache(*projected)


class MedLayers(nn.Module):
    """The stack of layers, scanned."""

    config: BlipConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        context: KVCache | None,
        rows: jax.Array | None = None,
        cache: KVCache | None = None,
        index: jax.Array | int = 0,
        *,
        role: str,
        train: bool,
    ) -> tuple[jax.Array, KVCache | None]:
        config, dtype = self.config.med, jnp.dtype(self.config.dtype)
        inputs = (0, 0, nn.broadcast, nn.broadcast, nn.broadcast)
        layers = scan_layers(MedLayer, self.config, config.depth, inputs)
        layers = layers(config, dtype, role, train, name="layer")
        return layers(x, context, cache, mask, rows, index)


class MedLayer(nn.Module):
    """Self-attention, cross-attention where there is a context, FFN; each post-norm."""

    config: MedConfig
    dtype: jnp.dtype
    role: str
    train: bool

    @nn.compact
    def __call__(self, x, context, cache, mask, rows, index):
        """x [B, T, D]; context and cache: this layer's -> (x, cache)."""
        config = self.config
        options = {
            "heads": config.heads,
            "kernel_std": config.kernel_std,
            "output_std": config.output_std,
            "dtype": self.dtype,
            "dropout": config.dropout,
            "train": self.train,
        }
        name = part_name(config, "self_attention", self.role)
        attention = SelfAttention(**options, name=name)
        y, cache = attention(x, mask, cache, index)
        x = self.residual(x, y, name)
        if context is not None:
            name = part_name(config, "cross_attention", self.role)
            y = CrossAttention(**options, name=name)(x, context, None, rows)
            x = self.residual(x, y, name)
        name = part_name(config, "ffn", self.role)
        y = Projection((config.mlp,), config.kernel_std, dtype=self.dtype, name=f"{name}_in")(x)
        y = nn.gelu(y, approximate=False)
        y = Projection((config.width,), config.output_std, dtype=self.dtype, name=f"{name}_out")(y)
        return self.residual(x, y, name), cache

    def residual(self, x: jax.Array, y: jax.Array, name: str) -> jax.Array:
        y = nn.Dropout(self.config.dropout, deterministic=not self.train)(y)
        return LayerNorm(EPS, name=f"{name}_norm")(x + y)


class LMHead(nn.Module):
    """Dense, GELU, norm, then the tied word embedding with a bias of its own."""

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, word: jax.Array) -> jax.Array:
        """x [B, T, D], word [V, D] -> logits float32 [B, T, V]."""
        config = self.config
        x = Projection((config.width,), config.kernel_std, dtype=self.dtype, name="dense")(x)
        x = LayerNorm(EPS, name="norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", nn.initializers.zeros, (config.vocab,))
        word = word.astype(self.dtype)
        return jnp.einsum("btd,vd->btv", x, word, preferred_element_type=jnp.float32) + bias
