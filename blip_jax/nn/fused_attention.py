"""Attention whose scores are not stored, on TPUs and CPUs.

The scores are the largest arrays of a layer: stored, and read again by each operation of the
softmax, they take most of the memory traffic of ViT, and much of that of cross-attention. Here only
those of one head exist at a time. They stay on the chip, and the backward pass computes them again.
On CPUs there is neither mask nor dropout.

B rows, T queries, N keys, H heads of width K, D = H * K (heads side by side).
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from blip_jax.nn import attention_kernel
from blip_jax.nn.attention_kernel import ContextStack, Inputs, mesh_parts

MIN_SCORES_OF_HEAD = 128 * 128  # on CPUs; fewer are too few to be computed alone
MIN_TOKENS = 16  # queries and keys of the kernel: generation has less, a token of each caption
MAX_SCORES_OF_HEAD = 2**20  # of the kernel, which keeps them in 4 MiB of VMEM

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Traces programs within it without fused attention, for machines other than this one."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def uses_head_loop(queries: int, keys: int) -> bool:
    """Returns whether `attend_by_head` is to compute attention of these sizes: on one CPU device.

    Several would gather what the loop over rows reads.
    """
    if _plain.get() or _platform() != "cpu" or jax.device_count() > 1:
        return False
    return queries * keys >= MIN_SCORES_OF_HEAD


def uses_kernel(rows: int, queries: int, keys: int, heads: int) -> bool:
    """Returns whether the TPU kernel is to compute attention of these sizes.

    The mesh decides, or outside of one the backend. No kernel for several TPUs without a mesh, as
    the compiler cannot split it among them; nor within `plain_attention`.
    """
    if _plain.get() or _platform() != "tpu" or min(queries, keys) < MIN_TOKENS:
        return False
    if queries * keys > MAX_SCORES_OF_HEAD:
        return False
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    row_parts, head_parts = mesh_parts(mesh)
    return rows % row_parts == 0 and heads % head_parts == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def fused_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    width: int,
    dropout: float = 0.0,
    mask: jax.Array | None = None,
    keep: jax.Array | None = None,
    stack: ContextStack | None = None,
) -> jax.Array:
    """Returns scaled dot-product attention with a float32 softmax.

    Args:
      query: [B, T, D]; key, value: [B, N, D].
      width: of a head, K.
      dropout: the rate at which `keep` has 0; what is kept is divided by 1 less it.
      mask, keep: see `attention_kernel.Inputs`; None on CPUs.
      stack: where the kernel reads `key` and `value`, which then only take gradients, so that the
        compiler removes what would copy them out of it. None: they are read themselves.

    Returns: [B, T, D] in the dtype of `value`.
    """
    if _platform() == "cpu":
        return attend_by_head(query, key, value, width)
    inputs = Inputs(query, stack or _single(key, value), mask=mask, keep=keep)
    return attention_kernel.attend(inputs, width, dropout)


def _forward(query, key, value, width: int, dropout: float, mask, keep, stack):
    attention = fused_attention(query, key, value, width, dropout, mask, keep, stack)
    arrays = (key, value) if stack is None else stack
    return attention, (query, arrays, mask, keep)


def _backward(width: int, dropout: float, residuals: tuple, gradient: jax.Array) -> tuple:
    query, arrays, *mask_and_keep = residuals
    if _platform() == "cpu":
        attend = functools.partial(attend_by_head, width=width)
        return (*jax.vjp(attend, query, *arrays)[1](gradient), None, None, None)
    stack = arrays if isinstance(arrays, ContextStack) else _single(*arrays)
    inputs = Inputs(query, stack, gradient, *mask_and_keep)
    return (*attention_kernel.gradients(inputs, width, dropout), None, None, None)


fused_attention.defvjp(_forward, _backward)


def _single(key: jax.Array, value: jax.Array) -> ContextStack:
    return ContextStack(key[None], value[None], jnp.int32(0))


def _platform() -> str:
    """Returns what the program that is being traced will run on: "cpu", "tpu" or another."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def attend_by_head(query: jax.Array, key: jax.Array, value: jax.Array, width: int) -> jax.Array:
    """Returns what `fused_attention` does, one head of one row after the other.

    On a CPU the scores of one head stay in its cache: the forward pass of ViT-B takes 12 % less CPU
    time at 224 pixels and 22 % less at 384.
    """

    @jax.checkpoint  # the backward pass too keeps the scores of one head
    def attend_one(arrays):
        query, key, value = arrays
        query = query * width**-0.5  # fewer numbers to scale than the scores
        scores = jnp.matmul(query, key.T, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores, axis=-1).astype(value.dtype) @ value

    def split(x):  # [B, N, D] to [B * H, N, K]
        heads = x.reshape(*x.shape[:2], -1, width).swapaxes(1, 2)
        return heads.reshape(-1, *heads.shape[2:])

    y = jax.lax.map(attend_one, (split(query), split(key), split(value)))
    y = y.reshape(query.shape[0], -1, *y.shape[1:]).swapaxes(1, 2)
    return y.reshape(query.shape)
