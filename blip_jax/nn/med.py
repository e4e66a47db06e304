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
from blip_jax.nn.attention import CrossAttentionContext, KVCache
from blip_jax.nn.configs import BlipConfig, MedConfig, param_group_name
from blip_jax.nn.layers import Dense, LayerNorm
from blip_jax.nn.med_layers import EPS, MedLayers, SeparateMedLayers, cross_attentions


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

    def project_decoding_contexts(
        self, tokens: jax.Array, mask: jax.Array | None = None
    ) -> tuple[CrossAttentionContext, ...]:
        """Maps tokens and mask, as `project_context` does, to what `decode_step` reads."""
        (name,) = cross_attentions(self.config.med, "decoder")
        pairs = getattr(self, f"{name}_context")(tokens, separate=True)
        return tuple(CrossAttentionContext(*pair, mask) for pair in pairs)

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
    """Keys and values of every layer's cross-attention, from tokens.

    The original projects the same tokens again in every pass (models/med.py); here the ITM and LM
    passes of a step, and all tokens of a caption, read one projection.
    """

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, separate: bool = False) -> tuple:
        """Maps tokens [C, N, any width] to keys [L, C, H, K, N] and values [L, C, H, N, K].

        Args:
          separate: return a tuple of each layer's keys and values instead, from products of its
            own. On a CPU it takes longer to copy the layers out of one array.
        """
        config, tokens, projected = self.config, tokens.astype(self.dtype), []
        normal = nn.initializers.normal(config.kernel_std)
        shape = (config.depth, tokens.shape[-1], config.heads, config.width // config.heads)
        depth = config.depth
        parts = [slice(n, n + 1) for n in range(depth)] if separate else [slice(depth)]
        for name, axes in (("key", (2, 0, 3, 4, 1)), ("value", (2, 0, 3, 1, 4))):
            kernel = self.param(f"{name}_kernel", normal, shape).astype(self.dtype)
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (shape[0], *shape[2:]))
            bias = bias.astype(self.dtype)
            y = [project_to_heads(tokens, kernel[part], bias[part]) for part in parts]
            projected.append([x.transpose(axes) for x in y])
        if separate:
            return tuple((key[0], value[0]) for key, value in zip(*projected, strict=True))
        (key,), (value,) = projected
        return key, value


def project_to_heads(tokens: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Maps tokens [C, N, W] with kernel [L, W, H, K] and bias [L, H, K] to [C, N, L, H, K].

    The caller transposes the result, because on CPU a product that gives `lchnk` is slower.
    """
    heads = kernel.shape[2:]
    # Heads in one axis, because the TPU compiler then writes what the kernel reads at once.
    y = jnp.einsum("cnd,ldf->cnlf", tokens, kernel.reshape(*kernel.shape[:2], -1))
    y = y + bias.reshape(len(bias), -1)
    return y.reshape(*y.shape[:3], *heads)


class LMHead(nn.Module):
    """Dense, GELU, norm, then the tied word embedding with a bias of its own."""

    config: MedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, word: jax.Array) -> jax.Array:
        """Maps x [B, T, D] and word [V, D] to logits float32 [B, T, V]."""
        config = self.config
        x = Dense(config.width, config.kernel_std, dtype=self.dtype, use_gelu=True, name="dense")(x)
        x = LayerNorm(EPS, self.dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        word = word.astype(self.dtype)
        return jnp.einsum("btd,vd->btv", x, word, preferred_element_type=jnp.float32) + bias
