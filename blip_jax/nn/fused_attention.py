"""Attention of many tokens whose scores are not stored, on TPUs and CPUs; it has no mask.

The scores of an image's tokens are the largest arrays of ViT: stored, and read again by each
operation of the softmax, they take most of the memory traffic of a layer. Here only those of one
head exist at a time. They stay on the chip, and the backward pass computes them again.

Heads lie side by side in one axis, as the projections before and after attention compute them: for
arrays with an axis of heads the TPU compiler chooses other layouts, and copies them for the kernel.

B rows, T queries, N keys, H heads of width K, D = H * K.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

MIN_SCORES_OF_HEAD = 128 * 128  # below this a head's scores are too few to be computed alone
MIN_QUERIES = 128  # of the TPU kernel, for which a text's keys and values would be copied
HEADS_AXIS = "tensor"  # axis of a mesh that splits heads; all others split rows
MAX_BLOCK_BYTES = 2**17  # of an operand of the kernel: it is unrolled over the heads of a block

Arrays = tuple[jax.Array, ...]

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Traces programs within it without fused attention, for machines other than this one."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def is_fused(rows: int, queries: int, keys: int, heads: int) -> bool:
    """Returns whether `fused_attention` is to compute attention of these sizes.

    The mesh decides, or outside of one the backend. Not fused: short texts; GPUs; several CPU
    devices, where a loop over rows would gather them; several TPUs without a mesh, as the compiler
    cannot split a kernel among them; within `plain_attention`.
    """
    if _plain.get() or queries * keys < MIN_SCORES_OF_HEAD:
        return False
    if _platform() == "cpu":
        return jax.device_count() == 1
    if _platform() != "tpu" or queries < MIN_QUERIES:
        return False
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    row_parts, head_parts = mesh_parts(mesh)
    return rows % row_parts == 0 and heads % head_parts == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def fused_attention(query: jax.Array, key: jax.Array, value: jax.Array, width: int) -> jax.Array:
    """Returns scaled dot-product attention with a float32 softmax.

    Args:
      query: [B, T, D]; key, value: [B, N, D].
      width: of a head, K.

    Returns: [B, T, D] in the dtype of `value`.
    """
    if _platform() == "cpu":
        return attend_by_head(query, key, value, width)
    return _on_mesh(_forward_kernel, (query, key, value), (query,), width, products=2)[0]


def _forward(query: jax.Array, key: jax.Array, value: jax.Array, width: int):
    return fused_attention(query, key, value, width), (query, key, value)


def _backward(width: int, operands: Arrays, gradient: jax.Array) -> Arrays:
    if _platform() == "cpu":
        attend = functools.partial(attend_by_head, width=width)
        return jax.vjp(attend, *operands)[1](gradient)
    return _on_mesh(_backward_kernel, (*operands, gradient), operands, width, products=5)


fused_attention.defvjp(_forward, _backward)


def _platform() -> str:
    """Returns what the program that is being traced will run on: "cpu", "tpu" or another."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def mesh_parts(mesh: Any) -> tuple[int, int]:
    """Returns into how many parts the program must split rows and heads for a mesh.

    1 each inside `pmap` or `shard_map`, where they are split already.
    """
    if mesh.are_all_axes_manual:
        return 1, 1
    heads = mesh.shape.get(HEADS_AXIS, 1)
    return mesh.size // heads, heads


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


def _on_mesh(kernel: Any, operands: Arrays, results: Arrays, width: int, products: int) -> Arrays:
    """Runs a kernel on each device's rows and heads; see `run_kernel`."""
    call = functools.partial(
        run_kernel, kernel, results=len(results), width=width, products=products
    )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return call(*operands)
    rows = tuple(axis for axis in mesh.axis_names if axis != HEADS_AXIS)
    spec = PartitionSpec(rows, None, HEADS_AXIS if HEADS_AXIS in mesh.axis_names else None)
    # `check_vma` does not know kernels.
    return jax.shard_map(call, in_specs=spec, out_specs=spec, check_vma=False)(*operands)


def run_kernel(
    kernel: Any,
    *operands: jax.Array,
    results: int,
    width: int,
    products: int,
    interpret: bool = False,
) -> Arrays:
    """Returns the `results` arrays that a Pallas kernel computes, of the first operands' shapes.

    The kernel gets blocks [1, T or N, h * K] of h heads of one row.

    Args:
      products: matrix products of a head, of which each takes 2 T N K FLOPs.
      interpret: run it without a TPU, to test it.
    """
    from jax.experimental import pallas  # takes 0.3 s, and is needed on TPUs alone

    rows, _, features = operands[0].shape
    block_features = width * heads_per_block(operands, width)

    def block(x: jax.Array) -> pallas.BlockSpec:
        return pallas.BlockSpec((1, x.shape[1], block_features), lambda row, part: (row, 0, part))

    like = operands[:results]
    scores = rows * operands[0].shape[1] * operands[1].shape[1]  # of one head
    return pallas.pallas_call(
        functools.partial(kernel, width=width),
        grid=(rows, features // block_features),
        in_specs=[block(x) for x in operands],
        out_specs=tuple(block(x) for x in like),
        out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like),
        # For the compiler's schedule, and for `blip-jax compile`, which counts FLOPs.
        cost_estimate=pallas.CostEstimate(
            flops=2 * products * scores * features,
            transcendentals=scores * (features // width),
            bytes_accessed=sum(x.nbytes for x in (*operands, *like)),
        ),
        interpret=interpret,
    )(*operands)


def heads_per_block(operands: Arrays, width: int) -> int:
    """Returns how many heads of a row are computed at once: the most within MAX_BLOCK_BYTES.

    A part of the heads must fill whole vectors of 128 numbers.
    """
    heads = operands[0].shape[2] // width
    of_head = max(x.shape[1] * width * x.dtype.itemsize for x in operands)
    fitting = [
        count
        for count in range(1, heads + 1)
        if heads % count == 0 and (count == heads or count * width % 128 == 0)
    ]
    small = [count for count in fitting if count * of_head <= MAX_BLOCK_BYTES]
    return max(small, default=fitting[0])


def _dot(x: jax.Array, y: jax.Array, axis_of_x: int, axis_of_y: int) -> jax.Array:
    """Returns the float32 product of two matrices, summed over one axis of each."""
    dimensions = (((axis_of_x,), (axis_of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def _probabilities(query: jax.Array, key: jax.Array) -> jax.Array:
    """Maps [T, K] and [N, K] to float32 [T, N]."""
    return jax.nn.softmax(_dot(query, key, 1, 1) * query.shape[-1] ** -0.5, axis=-1)


def _forward_kernel(query: Any, key: Any, value: Any, result: Any, *, width: int) -> None:
    """Writes the attention of a block of heads."""
    for head in range(query.shape[-1] // width):
        at = (0, slice(None), slice(head * width, (head + 1) * width))
        probabilities = _probabilities(query[at], key[at])
        result[at] = _dot(probabilities.astype(value.dtype), value[at], 1, 0).astype(result.dtype)


def _backward_kernel(
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    query_gradient: Any,
    key_gradient: Any,
    value_gradient: Any,
    *,
    width: int,
) -> None:
    """Writes the gradients of a block of heads from that of their attention."""

    def write(result: Any, at: tuple, x: jax.Array) -> None:
        result[at] = x.astype(result.dtype)

    for head in range(query.shape[-1] // width):
        at = (0, slice(None), slice(head * width, (head + 1) * width))
        probabilities = _probabilities(query[at], key[at])
        write(value_gradient, at, _dot(probabilities.astype(value.dtype), gradient[at], 0, 0))
        # The gradient of the probabilities, then that of the scores before their scaling.
        change = _dot(gradient[at], value[at], 1, 1)
        change -= (probabilities * change).sum(axis=-1, keepdims=True)
        change = (probabilities * change * width**-0.5).astype(query.dtype)
        write(query_gradient, at, _dot(change, key[at], 1, 0))
        write(key_gradient, at, _dot(change, query[at], 0, 0))
