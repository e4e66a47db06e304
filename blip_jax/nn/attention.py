"""Multi-head attention for the ViT and the text transformer.

B text or image rows, C context rows, T queries, N keys, H heads, K head width, D model width,
G groups of rows, L layers.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from blip_jax.nn.attention_kernel import ContextStack, mesh_parts
from blip_jax.nn.fused_attention import fused_attention, uses_head_loop, uses_kernel
from blip_jax.nn.layers import ATTENTION, Dense, recomputed


class KVCache(NamedTuple):
    """Keys and values of the tokens so far in one layer, [B, T, H, K] each."""

    key: jax.Array
    value: jax.Array


class CrossAttentionContext(NamedTuple):
    """What cross-attention reads: keys and values, projected before the layers run.

    Attributes:
      key, value: [C, H, K, N] and [C, H, N, K] (stacked: [L, C, H, K, N] and [L, C, H, N, K]),
        as the products of generation read them without a transposition for each token. For the
        TPU kernel: see `with_stack`.
      mask: bool [C, N], True = may be attended to; None: all.
      gate: float32 [B, H, T, N] (stacked: [L, B, H, T, N]), a factor of the attention
        probabilities, for as many texts as context rows; None: no factor, and no operation. What is
        computed has at 1 the gradient probability * d/d probability: GradCAM.
      stack: where the TPU kernel reads keys and values of all layers; None: no kernel reads them.
    """

    key: jax.Array
    value: jax.Array
    mask: jax.Array | None = None
    gate: jax.Array | None = None
    stack: ContextStack | None = None

    def gather(self, index: jax.Array) -> "CrossAttentionContext":
        """Returns the context rows of `index` of one layer; see `gather_rows`."""
        key, value = gather_rows(self.key, index), gather_rows(self.value, index)
        mask = None if self.mask is None else gather_rows(self.mask, index)
        row_parts, _ = mesh_parts(jax.sharding.get_abstract_mesh())
        stack = None
        if self.stack and index.shape[0] % row_parts == 0:  # groups are whole on one device
            stack = self.stack._replace(rows=index)
        return CrossAttentionContext(key, value, mask, stack=stack)

    def with_stack(self, rows: int, length: int) -> "CrossAttentionContext":
        """Returns the context of all layers with the `stack` that the TPU kernel reads.

        Its keys and values have heads side by side, [L, C, N, D]. Where no kernel computes the
        attention of `rows` texts of `length` tokens, the context is returned as it is.
        """
        depth, count, heads, tokens, width = self.value.shape
        queries = rows * length // count
        if self.gate is not None or not uses_kernel(count, queries, tokens, heads):
            return self
        shape = (depth, count, tokens, heads * width)
        key = self.key.transpose(0, 1, 4, 2, 3).reshape(shape)
        value = self.value.swapaxes(2, 3).reshape(shape)
        stack = ContextStack(*jax.lax.stop_gradient((key, value)), jnp.arange(depth))
        return self._replace(key=key, value=value, stack=stack)

    @property
    def layer_axes(self) -> "CrossAttentionContext":
        """Returns the axis of layers of each array, for a scan; `nn.broadcast`: it has none."""
        broadcast = nn.broadcast
        stack = ContextStack(broadcast, broadcast, 0, broadcast) if self.stack else broadcast
        return CrossAttentionContext(0, 0, broadcast, 0, stack)

    def separate(self) -> tuple["CrossAttentionContext", ...]:
        """Returns the context of each layer by itself; see `med_layers.separate_layers`."""
        pairs = zip(self.key, self.value, strict=True)
        return tuple(CrossAttentionContext(key, value, self.mask) for key, value in pairs)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    dropout: nn.Module | None = None,
    gate: jax.Array | None = None,
) -> jax.Array:
    """Computes scaled dot-product attention with a float32 softmax.

    A query whose mask is all False gets the mean of the values, as with the original's additive
    -10000: finite, and of no consequence for what is not padding.

    Args:
      query: [B, T, H, K]; key, value: [B, N, H, K].
      mask: bool, broadcastable to [B, H, T, N]; True = may attend. None: all may.
      dropout: applied to the probabilities.
      gate: float32 [B, H, T, N], a factor of the probabilities; None: none.

    Returns: [B, T, H, K] in the dtype of `value`.
    """
    _, queries, heads, width = query.shape
    plain = mask is None and gate is None and dropout is None
    if plain and uses_head_loop(queries, key.shape[1]):
        flat = (x.reshape(*x.shape[:2], heads * width) for x in (query, key, value))
        return fused_attention(*flat, width).reshape(query.shape)
    # `jax.nn.dot_product_attention` is not used, as it has neither dropout of the probabilities nor
    # a gate.
    scores = jnp.einsum("bthk,bnhk->bhtn", query, key, preferred_element_type=jnp.float32)
    scores = scores * width**-0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    if gate is not None:
        probabilities = probabilities * gate
    if dropout is not None:
        probabilities = dropout(probabilities)
    # In this order, as XLA's CPU compiler has a fast product for it alone where queries are few.
    y = jnp.einsum("bhtn,bhnk->bhtk", probabilities.astype(value.dtype), value.swapaxes(1, 2))
    return y.swapaxes(1, 2)


class MultiHead(nn.Module):
    """What self- and cross-attention have in common: sizes, dropout, output projection."""

    heads: int
    kernel_std: float
    output_std: float
    dtype: jnp.dtype
    dropout: float = 0.0
    train: bool = False

    @property
    def drops(self) -> bool:
        """Returns whether probabilities are dropped out."""
        return bool(self.train and self.dropout)

    def attention(self, query, key, value, mask, gate=None) -> jax.Array:
        """Returns [B, T, H, K]: attention with dropout of the probabilities."""
        dropout = nn.Dropout(self.dropout, deterministic=False) if self.drops else None
        return attend(query, key, value, mask, dropout, gate)

    def fused_attention(self, query, key, value, mask, stack=None) -> jax.Array:
        """Returns what `attention` does, with heads side by side: all arrays [B, T or N, D]."""
        rows, queries, features = query.shape
        if mask is not None:
            mask = mask[:, 0].astype(jnp.int8)
        keep, rate = None, 0.0
        if self.drops:
            shape, rate = (rows, self.heads, queries, key.shape[1]), self.dropout
            keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape).astype(jnp.int8)
        width = features // self.heads
        return fused_attention(query, key, value, width, rate, mask, keep, stack)

    def project_output(self, y: jax.Array) -> jax.Array:
        """Maps [B, T, D], heads side by side, to [B, T, D]."""
        y = checkpoint_name(y, ATTENTION)
        width = y.shape[-1]
        axes = (self.heads, width // self.heads)
        return Dense(width, self.output_std, axes, self.dtype, name="out")(y)


class SelfAttention(MultiHead):
    """Self-attention with one query, key and value kernel; cache in, cache out."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        cache: KVCache | None = None,
        index: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Maps x [B, T, D] to ([B, T, D], cache with the keys of x from position `index` on)."""
        rows, length, features = x.shape
        width = features // self.heads
        project = QkvProjection(self.heads, self.kernel_std, self.dtype, name="qkv")
        looped = mask is None and not self.drops and uses_head_loop(length, length)
        if cache is None and (looped or uses_kernel(rows, length, length, self.heads)):
            y = self.fused_attention(*project(x, separate_products=True), mask)
            return self.project_output(y), None
        query, key, value = (y.reshape(rows, length, self.heads, width) for y in project(x))
        if cache is not None:
            at = (0, index, 0, 0)
            key = jax.lax.dynamic_update_slice(cache.key, key.astype(cache.key.dtype), at)
            value = jax.lax.dynamic_update_slice(cache.value, value.astype(cache.value.dtype), at)
            cache = KVCache(key, value)
        y = self.attention(query, key, value, mask)
        return self.project_output(y.reshape(x.shape)), cache


class QkvProjection(nn.Module):
    """The query, key and value projections of self-attention, with one kernel."""

    heads: int
    kernel_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, separate_products: bool = False) -> tuple[jax.Array, ...]:
        """Maps x [B, T, D] to query, key and value, [B, T, D] each.

        Args:
          separate_products: compute three products, as the parts of one have to be copied for a
            kernel.
        """
        width = x.shape[-1]
        split = (3, self.heads, width // self.heads)
        kernel = self.param("kernel", nn.initializers.normal(self.kernel_std), (width, *split))
        bias = self.param("bias", nn.initializers.zeros, split)

        # Else the gradient would keep the kernel in another form, for each use of the layer.
        @recomputed
        def project(x, kernel, bias):
            x, kernel, bias = (y.astype(self.dtype) for y in (x, kernel, bias))
            if separate_products:
                kernels, biases = kernel.reshape(width, 3, width), bias.reshape(3, width)
                return tuple(x @ kernels[:, part] + biases[part] for part in range(3))
            qkv = jnp.einsum("btd,dphk->btphk", x, kernel) + bias
            return tuple(qkv[:, :, part].reshape(x.shape) for part in range(3))

        return project(x, kernel, bias)


class CrossAttention(MultiHead):
    """Attention to keys and values that `med.ContextProjection` computes."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: CrossAttentionContext,
        context_index: jax.Array | None = None,
    ) -> jax.Array:
        """Maps x [B, T, D], which attends to the context's rows, to [B, T, D].

        Text row b reads context row b // n of its n = B / C texts, and nothing is copied.

        Args:
          context_index: int32 [G, m]: of each context row's texts the last m G / C read instead
            these context rows, counted within their group (see `gather_rows`). None: none does.
        """
        batch, length, width = x.shape
        rows, head = context.key.shape[0], width // self.heads
        query = Dense((self.heads, head), self.kernel_std, dtype=self.dtype, name="query")(x)
        query = query.reshape(rows, -1, length, self.heads, head)
        if context_index is None:
            y = self.read(query, context)
        else:
            own = query.shape[1] - context_index.size // rows
            other = context.gather(context_index)
            picked = query[:, own:].reshape(len(other.key), 1, length, self.heads, head)
            picked = self.read(picked, other).reshape(rows, -1, length, self.heads, head)
            y = jnp.concatenate([self.read(query[:, :own], context), picked], axis=1)
        return self.project_output(y.reshape(x.shape))

    def read(self, query: jax.Array, context: CrossAttentionContext) -> jax.Array:
        """Returns what the n texts of each context row read of it: [C, n, T, H, K], as `query`."""
        key, value, mask, gate, stack = context
        allowed = None if mask is None else mask[:, None, None, :]
        if key.ndim == 3:  # see `CrossAttentionContext.with_stack`
            flat = query.reshape(key.shape[0], -1, key.shape[-1])
            return self.fused_attention(flat, key, value, allowed, stack).reshape(query.shape)
        flat = query.reshape(key.shape[0], -1, *query.shape[3:])  # len() refuses symbolic sizes
        y = self.attention(flat, key.transpose(0, 3, 1, 2), value.swapaxes(1, 2), allowed, gate)
        return y.reshape(query.shape)


def gather_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Picks rows within groups: the leading axis of `x` falls into G equal groups, in order.

    On a mesh, groups that are whole on one device are gathered without communication.

    Args:
      x: [C, ...]; rows: int32 [G, n], each in 0 … C / G - 1.

    Returns: [G * n, ...].
    """
    groups, count = rows.shape
    grouped = x.reshape(groups, -1, *x.shape[1:])
    picked = jax.vmap(lambda part, index: jnp.take(part, index, axis=0, mode="clip"))(grouped, rows)
    return picked.reshape(groups * count, *x.shape[1:])
