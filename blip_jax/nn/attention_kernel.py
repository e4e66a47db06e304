"""The TPU kernel of fused attention (fused_attention.py), forward and backward.

Heads lie side by side in one axis, as the projections before and after attention compute them: for
arrays with an axis of heads the TPU compiler chooses other layouts, and copies them for the kernel.

B rows, T queries, N keys, H heads of width K, D = H * K; L layers, C context rows, G groups of
rows.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

HEADS_AXIS = "tensor"  # axis of a mesh that splits heads; all others split rows
MAX_BLOCK_BYTES = 2**17  # of an operand of the kernel: it is unrolled over the heads of a block

Arrays = tuple[jax.Array, ...]


class ContextStack(NamedTuple):
    """Where the kernel reads keys and values, so that no part of them is copied for it.

    Attributes:
      key, value: [L, C, N, D].
      layer: int32 [], the layer that is read.
      rows: int32 [G, B / G]; row b of the queries reads the context row of this number, counted
        within its group. None: its own, and B = C.
    """

    key: jax.Array
    value: jax.Array
    layer: jax.Array
    rows: jax.Array | None = None


class Inputs(NamedTuple):
    """What the kernel reads.

    Attributes:
      query: [B, T, D].
      context: keys and values.
      gradient: [B, T, D], that of the attention, for the backward pass.
      mask: int8 [B, 1 or T, N], 0 where a query may not attend and else 1; None: it may to all.
      keep: int8 [B, H, T, N], 0 where a probability is dropped and else 1; None: none is.
    """

    query: jax.Array
    context: ContextStack
    gradient: jax.Array | None = None
    mask: jax.Array | None = None
    keep: jax.Array | None = None


def mesh_parts(mesh: Any) -> tuple[int, int]:
    """Returns into how many parts the program must split rows and heads for a mesh.

    1 each inside `pmap` or `shard_map`, where they are split already.
    """
    if mesh.empty or mesh.are_all_axes_manual:
        return 1, 1
    heads = mesh.shape.get(HEADS_AXIS, 1)
    return mesh.size // heads, heads


def attend(inputs: Inputs, width: int, dropout: float) -> jax.Array:
    """Returns the attention [B, T, D]; `width` is K, `dropout` the rate at which `keep` has 0."""
    return _on_mesh(_forward, inputs, width=width, dropout=dropout, products=2)[0]


def gradients(inputs: Inputs, width: int, dropout: float) -> Arrays:
    """Returns gradients of the queries [B, T, D] and of the keys and values that each row reads.

    The latter are [B, N, D] each: those of rows that read the same context are not summed.
    """
    return _on_mesh(_backward, inputs, width=width, dropout=dropout, products=5)


def _on_mesh(kernel: Any, inputs: Inputs, **options: Any) -> Arrays:
    """Runs a kernel on each device's rows and heads; see `run_kernel`."""
    call = functools.partial(run_kernel, kernel, **options)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return call(inputs)
    rows = tuple(axis for axis in mesh.axis_names if axis != HEADS_AXIS)
    heads = HEADS_AXIS if HEADS_AXIS in mesh.axis_names else None
    of_row = PartitionSpec(rows, None, heads)
    stack = PartitionSpec(None, rows, None, heads)
    specs = Inputs(
        of_row,
        ContextStack(stack, stack, PartitionSpec(), PartitionSpec(rows)),
        of_row,
        PartitionSpec(rows),
        PartitionSpec(rows, heads),
    )
    # `check_vma` does not know kernels.
    return jax.shard_map(call, in_specs=(specs,), out_specs=of_row, check_vma=False)(inputs)


def run_kernel(
    kernel: Any,
    inputs: Inputs,
    *,
    width: int,
    dropout: float,
    products: int,
    interpret: bool = False,
) -> Arrays:
    """Returns what a Pallas kernel computes of one device's inputs.

    It gets references to blocks of h heads of one row, by their names in `Inputs`: [1, T or N,
    h * K], [1, 1 or T, N] of `mask` and [1, h, T, N] of `keep`; then those of the results.

    Args:
      products: matrix products of a head, of which each takes 2 T N K FLOPs.
      interpret: run it without a TPU, to test it.
    """
    from jax.experimental import pallas  # takes 0.3 s, and is needed on TPUs alone
    from jax.experimental.pallas import tpu

    rows, queries, features = inputs.query.shape
    context = inputs.context
    keys = context.key.shape[2]
    heads = heads_per_block(inputs, width)

    def block_of_heads(length: int) -> pallas.BlockSpec:
        block = (1, length, heads * width)
        return pallas.BlockSpec(block, lambda row, part, at: (row, 0, part))

    def whole_row(*block: int) -> pallas.BlockSpec:
        return pallas.BlockSpec((1, *block), lambda row, part, at: (row, *[0] * len(block)))

    stack = pallas.BlockSpec(
        (None, 1, keys, heads * width), lambda row, part, at: (at[0], at[row + 1], 0, part)
    )
    keep = pallas.BlockSpec((1, heads, queries, keys), lambda row, part, at: (row, part, 0, 0))
    blocks = {
        "query": (inputs.query, block_of_heads(queries)),
        "key": (context.key, stack),
        "value": (context.value, stack),
    }
    if inputs.gradient is not None:
        blocks["gradient"] = inputs.gradient, block_of_heads(queries)
    if inputs.mask is not None:
        blocks["mask"] = inputs.mask, whole_row(*inputs.mask.shape[1:])
    if inputs.keep is not None:
        blocks["keep"] = inputs.keep, keep
    arrays, in_specs = zip(*blocks.values(), strict=True)

    def run(positions: Any, *references: Any) -> None:
        given = dict(zip(blocks, references, strict=False))
        kernel(*references[len(blocks) :], **given, width=width, dropout=dropout)

    results = [(queries, inputs.query.dtype)]
    if inputs.gradient is not None:
        results += [(keys, context.key.dtype), (keys, context.value.dtype)]
    read = rows * keys * features * (context.key.dtype.itemsize + context.value.dtype.itemsize)
    others = sum(x.nbytes for name, (x, _) in blocks.items() if name not in ("key", "value"))
    written = sum(rows * length * features * dtype.itemsize for length, dtype in results)
    call = pallas.pallas_call(
        run,
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(rows, features // width // heads),
            in_specs=in_specs,
            out_specs=tuple(block_of_heads(length) for length, _ in results),
        ),
        out_shape=tuple(
            jax.ShapeDtypeStruct((rows, length, features), dtype) for length, dtype in results
        ),
        # Chips of v4 and v5p have two cores, which share the rows.
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        # For the compiler's schedule, and for `blip-jax compile`, which counts FLOPs.
        cost_estimate=pallas.CostEstimate(
            flops=2 * products * rows * queries * keys * features,
            transcendentals=rows * queries * keys * (features // width),
            bytes_accessed=read + others + written,
        ),
        interpret=interpret,
    )
    return call(read_positions(context, rows), *arrays)


def read_positions(context: ContextStack, rows: int) -> jax.Array:
    """Returns int32 [1 + B]: the layer, then the context row that each row of queries reads."""
    if context.rows is None:
        own = jnp.arange(rows, dtype=jnp.int32)
    else:
        groups = context.rows.shape[0]
        first = jnp.arange(groups, dtype=jnp.int32) * (context.key.shape[1] // groups)
        own = (first[:, None] + context.rows).reshape(-1)
    return jnp.concatenate([jnp.reshape(context.layer, 1).astype(jnp.int32), own])


def heads_per_block(inputs: Inputs, width: int) -> int:
    """Returns how many heads of a row are computed at once: the most within MAX_BLOCK_BYTES.

    A part of the heads must fill whole vectors of 128 numbers.
    """
    _, queries, features = inputs.query.shape
    keys, heads = inputs.context.key.shape[2], features // width
    of_head = max(queries, keys) * width * inputs.query.dtype.itemsize
    if inputs.keep is not None:
        of_head = max(of_head, queries * keys)
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


def _probabilities(query: jax.Array, key: jax.Array, mask: Any) -> jax.Array:
    """Maps [T, K] and [N, K] to float32 [T, N]; `mask` is the block of the mask or None."""
    scores = _dot(query, key, 1, 1) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[0] != 0, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def _drop(x: jax.Array, keep: Any, head: int, dropout: float) -> jax.Array:
    """Returns x float32 [T, N] with dropout; `keep` is the block of what is kept or None."""
    return x if keep is None else x * (keep[0, head].astype(x.dtype) / (1 - dropout))


def _forward(
    result: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    keep: Any = None,
    *,
    width: int,
    dropout: float,
) -> None:
    """Writes the attention of a block of heads."""
    for head in range(query.shape[-1] // width):
        at = (0, slice(None), slice(head * width, (head + 1) * width))
        probabilities = _drop(_probabilities(query[at], key[at], mask), keep, head, dropout)
        result[at] = _dot(probabilities.astype(value.dtype), value[at], 1, 0).astype(result.dtype)


def _backward(
    query_gradient: Any,
    key_gradient: Any,
    value_gradient: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    mask: Any = None,
    keep: Any = None,
    *,
    width: int,
    dropout: float,
) -> None:
    """Writes the gradients of a block of heads from that of their attention."""

    def write(result: Any, at: tuple, x: jax.Array) -> None:
        result[at] = x.astype(result.dtype)

    for head in range(query.shape[-1] // width):
        at = (0, slice(None), slice(head * width, (head + 1) * width))
        probabilities = _probabilities(query[at], key[at], mask)
        kept = _drop(probabilities, keep, head, dropout)
        write(value_gradient, at, _dot(kept.astype(value.dtype), gradient[at], 0, 0))
        # The gradient of the probabilities, then that of the scores before their scaling.
        change = _drop(_dot(gradient[at], value[at], 1, 1), keep, head, dropout)
        change -= (probabilities * change).sum(axis=-1, keepdims=True)
        change = probabilities * change * width**-0.5
        if mask is not None:  # of a query that may attend to nothing the probabilities are not 0
            change = jnp.where(mask[0] != 0, change, 0)
        change = change.astype(query.dtype)
        write(query_gradient, at, _dot(change, key[at], 1, 0))
        write(key_gradient, at, _dot(change, query[at], 0, 0))
