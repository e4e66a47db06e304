"""Parts of a model as ONNX files, with their weights, for onnxruntime and others."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from blip_jax.checkpoints import Checkpoint
from blip_jax.model_export.onnx_graph import Graph
from blip_jax.model_export.onnx_primitives import convert_jaxpr
from blip_jax.model_export.parts import Part, program, symbolic_inputs

SUFFIX = ".onnx"


def write(checkpoint: Checkpoint, parts: dict[str, Part], folder: pathlib.Path) -> None:
    """Writes NAME.onnx for each part."""
    import onnx

    for name, part in parts.items():
        onnx.save_model(model_of(checkpoint, part), folder / f"{name}{SUFFIX}")


def model_of(checkpoint: Checkpoint, part: Part) -> Any:
    """Returns the `onnx.ModelProto` of a part."""
    run, params = program(checkpoint, part), jax.tree.map(np.asarray, checkpoint.params)
    inputs = symbolic_inputs(checkpoint, part)
    # Parameters are arguments, so that the layers' are told from each other by indexing alone.
    traced = jax.make_jaxpr(run)(params, *inputs)
    graph = Graph()
    names = [
        graph.input(name, array.dtype, shaped.shape)
        for (name, array), shaped in zip(part.inputs.items(), inputs, strict=True)
    ]
    results = convert_jaxpr(graph, traced.jaxpr, traced.consts, [*jax.tree.leaves(params), *names])
    return graph.model({
        name: (value, aval.dtype, aval.shape)
        for name, value, aval in zip(part.outputs, results, traced.out_avals, strict=True)
    })  # fmt: skip
