"""JAX's primitives in ONNX: those that BLIP's networks consist of when they are traced.

Own code, because jax2onnx replaces functions of `jax.numpy` while it traces, which fails inside
Flax's scan, and its newer versions do not go with this package's Orbax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from blip_jax.model_export.onnx_graph import Graph, Value

# One operation of the same arguments.
SAME = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "neg": "Neg", "exp": "Exp", "tanh": "Tanh", "sqrt": "Sqrt", "log": "Log", "erf": "Erf",
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal",
    "and": "And", "or": "Or", "not": "Not",
}  # fmt: skip
UNCHANGED = ("stop_gradient", "copy", "copy_p", "name")
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters that hold a function which is called


def convert_jaxpr(graph: Graph, jaxpr: Any, consts: Sequence, inputs: Sequence) -> list[Value]:
    """Adds what a jaxpr computes to the graph; returns its results.

    What depends on constants alone is computed now.

    Raises:
      NotImplementedError: it has a primitive that is not known here.
    """
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        if isinstance(atom, jax.extend.core.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        return values[atom]

    for equation in jaxpr.eqns:
        found = _convert(graph, equation, [read(atom) for atom in equation.invars])
        values |= dict(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _convert(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(graph, params, inputs)
    called = next((params[key] for key in CALLS if key in params), None)
    if called is not None:
        if isinstance(called, jax.extend.core.ClosedJaxpr):
            return convert_jaxpr(graph, called.jaxpr, called.consts, inputs)
        return convert_jaxpr(graph, called, (), inputs)  # of `jax.checkpoint`
    sizes = [size for atom in equation.outvars for size in atom.aval.shape]
    is_constant = not any(isinstance(value, str) for value in inputs)
    if is_constant and name != "dim_as_value" and all(isinstance(size, int) for size in sizes):
        results = equation.primitive.bind(*inputs, **params)
        results = results if equation.primitive.multiple_results else [results]
        return [np.asarray(result) for result in results]
    if name in UNCHANGED:
        return inputs
    if name in SAME:
        return [graph.node(SAME[name], *inputs)]
    if name == "unstack":  # since JAX 0.12, of unpacking an array
        axis, places = params["axis"], range(len(equation.outvars))
        return [graph.node("Gather", *inputs, np.array(place), axis=axis) for place in places]
    if name not in RULES:
        raise NotImplementedError(f"primitive {name} has no ONNX rule")
    return [RULES[name](graph, equation, *inputs)]


def _scan(graph: Graph, params: dict, inputs: list[Value]) -> list[Value]:
    """Writes the body for each layer, whose parameters are then constants of their own."""
    if "num_consts" in params:
        consts, carried = params["num_consts"], params["num_carry"]
    else:  # since JAX 0.12
        consts, carried, _ = (len(list(part)) for part in params["ft_in"].unpack())
    body, order = params["jaxpr"], range(params["length"])
    shared, rest = inputs[:consts], inputs[consts:]
    carry, stacks, rows = rest[:carried], rest[carried:], []
    for index in reversed(order) if params["reverse"] else order:
        slices = [
            graph.node("Gather", x, np.array(index), axis=0) if isinstance(x, str) else x[index]
            for x in stacks
        ]
        found = convert_jaxpr(graph, body.jaxpr, body.consts, [*shared, *carry, *slices])
        carry, row = found[:carried], found[carried:]
        rows.append(row)
    rows = reversed(rows) if params["reverse"] else rows
    return [*carry, *(_stack_values(graph, column, 0) for column in zip(*rows, strict=True))]


def _stack_values(graph: Graph, values: Sequence[Value], axis: int) -> Value:
    lifted = [graph.node("Unsqueeze", value, np.array([axis])) for value in values]
    return graph.node("Concat", *lifted, axis=axis)


def _broadcast_in_dim(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    added = [axis for axis in range(len(shape)) if axis not in kept]
    if added:
        x = graph.node("Unsqueeze", x, np.array(added))
    before = [1] * len(shape)
    for axis, size in zip(kept, equation.invars[0].aval.shape, strict=True):
        before[axis] = size
    return x if tuple(before) == tuple(shape) else graph.node("Expand", x, graph.shape(shape))


def _reshape(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    shape = equation.params["new_sizes"]
    if sum(not isinstance(size, int) for size in shape) == 1:
        target = np.array([size if isinstance(size, int) else -1 for size in shape])
    else:
        target = graph.shape(shape)
    return graph.node("Reshape", x, target)


def _dot_general(graph: Graph, equation: Any, x: Value, y: Value) -> Value:
    """A product of matrices: what is summed comes last in x and behind the shared axes in y."""
    (x_sum, y_sum), (x_shared, y_shared) = equation.params["dimension_numbers"]
    x_free, y_free = (
        [axis for axis in range(len(atom.aval.shape)) if axis not in (*summed, *shared)]
        for atom, summed, shared in zip(
            equation.invars, (x_sum, y_sum), (x_shared, y_shared), strict=True
        )
    )
    if len(x_sum) > 1 or (x_shared and not len(x_free) == len(y_free) == 1):
        raise NotImplementedError(f"product {equation.params['dimension_numbers']}")
    x = _transpose(graph, x, (*x_shared, *x_free, *x_sum))
    y = _transpose(graph, y, (*y_shared, *y_sum, *y_free))
    if len(y_free) == 1:
        return graph.node("MatMul", x, y)
    size = equation.invars[1].aval.shape[y_sum[0]]
    y = (
        graph.node("Reshape", y, np.array([size, -1]))
        if isinstance(y, str)
        else y.reshape(size, -1)
    )
    shape = equation.outvars[0].aval.shape
    return graph.node("Reshape", graph.node("MatMul", x, y), graph.shape(shape))


def _transpose(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    if list(axes) == sorted(axes):
        return x
    return x.transpose(axes) if isinstance(x, np.ndarray) else graph.node("Transpose", x, perm=axes)


def _gather(graph: Graph, equation: Any, x: Value, index: Value) -> Value:
    """Takes whole rows along one axis, which is all that indexing by numbers or ids needs."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = equation.invars[0].aval.shape
    (axis,) = numbers.start_index_map
    others = [i for i in range(len(shape)) if i != axis]
    indices = equation.invars[1].aval.shape[:-1]
    offset = tuple(i if i < axis else i + len(indices) - 1 for i in others)
    if (
        numbers.collapsed_slice_dims != (axis,)
        or numbers.offset_dims != offset
        or any(sizes[i] != shape[i] for i in others)
    ):
        raise NotImplementedError(f"gather of {sizes} from {shape}")
    if isinstance(index, np.ndarray):
        index = index[..., 0]
    else:
        index = graph.node("Squeeze", index, np.array([-1]))
        index = graph.node("Clip", index, np.int32(0), np.int32(shape[axis] - 1))
    return graph.node("Gather", x, index, axis=axis)


def _scatter(graph: Graph, equation: Any, x: Value, index: Value, update: Value) -> Value:
    """Replaces what is at one constant place of an axis."""
    numbers = equation.params["dimension_numbers"]
    axis, at = numbers.scatter_dims_to_operand_dims[0], index
    if numbers.inserted_window_dims != (axis,) or isinstance(at, str) or at.shape != (1,):
        raise NotImplementedError("scatter at several places")
    update = graph.node("Unsqueeze", update, np.array([axis]))
    return _replace(graph, x, update, at.astype(np.int64), at.astype(np.int64) + 1, axis)


def _replace(graph: Graph, x: Value, update: Value, start: Value, end: Value, axis: int) -> Value:
    """Returns x with `update` from start to end of an axis, int64 [1] each."""
    axes, infinity = np.array([axis]), np.array([np.iinfo(np.int64).max])
    before = graph.node("Slice", x, np.array([0]), start, axes)
    after = graph.node("Slice", x, end, infinity, axes)
    return graph.node("Concat", before, update, after, axis=axis)


def _start(graph: Graph, start: Value) -> Value:
    if isinstance(start, np.ndarray):
        return start.astype(np.int64).reshape(1)
    wide = graph.node("Cast", start, to=_tensor_dtype(np.int64))
    return graph.node("Reshape", wide, np.array([1]))


def _cut_axes(shape: Sequence, sizes: Sequence) -> list[int]:
    return [axis for axis, (a, b) in enumerate(zip(shape, sizes, strict=True)) if a != b]


def _dynamic_slice(graph: Graph, equation: Any, x: Value, *starts: Value) -> Value:
    sizes = equation.params["slice_sizes"]
    starts = starts[: len(sizes)]
    for axis in _cut_axes(equation.invars[0].aval.shape, sizes):
        start = _start(graph, starts[axis])
        end = graph.node("Add", start, graph.size(sizes[axis]))
        x = graph.node("Slice", x, start, end, np.array([axis]))
    return x


def _dynamic_update_slice(
    graph: Graph, equation: Any, x: Value, update: Value, *starts: Value
) -> Value:
    shape, new = (atom.aval.shape for atom in equation.invars[:2])
    (axis,) = _cut_axes(shape, new)
    start = _start(graph, starts[axis])
    end = graph.node("Add", start, graph.size(new[axis]))
    return _replace(graph, x, update, start, end, axis)


def _slice(graph: Graph, equation: Any, x: Value) -> Value:
    params, shape = equation.params, equation.invars[0].aval.shape
    strides = params["strides"] or (1,) * len(shape)
    cuts = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    cut = {
        axis: values
        for axis, (values, size) in enumerate(zip(cuts, shape, strict=True))
        if values != (0, size, 1)
    }
    starts, ends, steps = (graph.shape(values) for values in zip(*cut.values(), strict=True))
    return graph.node("Slice", x, starts, ends, np.array(list(cut)), steps)


def _iota(graph: Graph, equation: Any, *sizes: Value) -> Value:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    end = graph.node("Squeeze", graph.size(shape[axis]), np.array([0]))
    x = graph.node("Range", np.array(0), end, np.array(1))
    x = graph.node("Cast", x, to=_tensor_dtype(equation.params["dtype"]))
    if len(shape) == 1:
        return x
    x = graph.node("Unsqueeze", x, np.array([i for i in range(len(shape)) if i != axis]))
    return graph.node("Expand", x, graph.shape(shape))


def _dim_as_value(graph: Graph, equation: Any) -> Value:
    size = graph.node("Squeeze", graph.size(equation.params["dim"]), np.array([0]))
    return graph.node("Cast", size, to=_tensor_dtype(equation.outvars[0].aval.dtype))


def _reduce(op: str) -> Callable:
    def rule(graph: Graph, equation: Any, x: Value) -> Value:
        return graph.node(op, x, np.array(equation.params["axes"]), keepdims=0)

    return rule


def _tensor_dtype(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


RULES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": lambda g, e, *xs: g.node("Concat", *xs, axis=e.params["dimension"]),
    "convert_element_type": lambda g, e, x: g.node(
        "Cast", x, to=_tensor_dtype(e.params["new_dtype"])
    ),
    "dim_as_value": _dim_as_value,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "erfc": lambda g, e, x: g.node("Sub", np.float32(1), g.node("Erf", x)),
    "gather": _gather,
    "iota": _iota,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rsqrt": lambda g, e, x: g.node("Reciprocal", g.node("Sqrt", x)),
    "scatter": _scatter,
    "select_n": lambda g, e, which, no, yes: g.node("Where", which, yes, no),
    "slice": _slice,
    "square": lambda g, e, x: g.node("Mul", x, x),
    "squeeze": lambda g, e, x: g.node("Squeeze", x, np.array(e.params["dimensions"])),
    "stack": lambda g, e, *xs: _stack_values(g, xs, e.params["axis"]),
    "transpose": lambda g, e, x: _transpose(g, x, e.params["permutation"]),
}
