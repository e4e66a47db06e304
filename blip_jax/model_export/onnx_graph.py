"""An ONNX graph that is built from values: NumPy arrays are constants, strings name tensors.

Sizes are whole numbers, or expressions of symbolic ones such as `batch` or `2*tokens`.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

OPSET = 18
IR_VERSION = 10  # of ONNX 1.16, which programs of 2024 read

Value = np.ndarray | str
_OPERATORS = {ast.Mult: "Mul", ast.Add: "Add", ast.Sub: "Sub"}


class Graph:
    """Nodes, constants and inputs of a graph."""

    def __init__(self):
        self._nodes = []
        self._initializers = []
        self._inputs = []
        self._sizes: dict[str, Value] = {}  # of symbolic sizes, int64 [1]

    def input(self, name: str, dtype: Any, shape: tuple) -> str:
        """Adds an input, from which symbolic sizes that are names are known from then on."""
        self._inputs.append(_value_info(name, dtype, shape))
        for axis, size in enumerate(map(str, shape)):
            if not size.isdigit() and size not in self._sizes:
                shape_of = self.node("Shape", name)
                self._sizes[size] = self.node("Gather", shape_of, np.array([axis]), axis=0)
        return name

    def node(self, op: str, *inputs: Value, output: str = "", **attributes: Any) -> str:
        """Adds an operation of one output; returns its name."""
        from onnx import helper

        output = output or f"t{len(self._nodes)}"
        names = [self.name(value) for value in inputs]
        self._nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def name(self, value: Value) -> str:
        """Returns the name of a tensor; an array becomes a constant."""
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        name = f"c{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def size(self, size: Any) -> Value:
        """Returns a size as int64 [1]."""
        text = str(size)
        if text not in self._sizes:
            self._sizes[text] = self._evaluate(ast.parse(text, mode="eval").body)
        return self._sizes[text]

    def _evaluate(self, tree: ast.AST) -> Value:
        if isinstance(tree, ast.Constant):
            return np.array([tree.value])
        if isinstance(tree, ast.Name):
            return self._sizes[tree.id]
        operator = _OPERATORS[type(tree.op)]
        return self.node(operator, self._evaluate(tree.left), self._evaluate(tree.right))

    def shape(self, sizes: tuple) -> Value:
        """Returns sizes as int64 [rank]."""
        if all(isinstance(size, int) for size in sizes):
            return np.array(sizes, np.int64)
        return self.node("Concat", *(self.size(size) for size in sizes), axis=0)

    def model(self, outputs: dict[str, tuple[Value, Any, tuple]]) -> Any:
        """Returns the `onnx.ModelProto`; outputs by name: value, dtype and shape."""
        from onnx import helper

        for name, (value, _, _) in outputs.items():
            self.node("Identity", value, output=name)
        described = [_value_info(name, *rest) for name, (_, *rest) in outputs.items()]
        graph = helper.make_graph(
            self._nodes, "blip_jax", self._inputs, described, self._initializers
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="blip_jax"
        )


def _value_info(name: str, dtype: Any, shape: tuple) -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    return helper.make_tensor_value_info(name, kind, sizes)
