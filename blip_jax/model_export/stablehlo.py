"""Parts of a model as StableHLO programs for CPU, TPU and CUDA, by `jax.export`.

Sizes that callers choose (the batch, the tokens of a text, the positions of a cache) are symbolic:
a program is exported once for all of them. Parameters are arguments, as programs share them.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from blip_jax.checkpoints import Checkpoint
from blip_jax.model_export.parts import Part, program, symbolic_inputs

PLATFORMS = ("cpu", "tpu", "cuda")
PARAMS = "params.npz"
SUFFIX = ".stablehlo"


def write(checkpoint: Checkpoint, parts: dict[str, Part], folder: pathlib.Path) -> None:
    """Writes NAME.stablehlo for each part, and the parameters of all as params.npz."""
    params = flat_params(checkpoint)
    np.savez(folder / PARAMS, **params)
    for name, part in parts.items():
        exported = export(checkpoint, part, params)
        (folder / f"{name}{SUFFIX}").write_bytes(exported.serialize())


def flat_params(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Returns the parameters by their paths, as "vit/norm/scale"."""
    flat = flatten_dict(checkpoint.params, sep="/")
    return {name: np.asarray(x, np.float32) for name, x in flat.items()}


def export(
    checkpoint: Checkpoint, part: Part, params: dict[str, np.ndarray]
) -> jax.export.Exported:
    """Returns a part as a function of (parameters by their paths, *inputs) to a tuple of arrays."""
    run = program(checkpoint, part)

    def call(flat: dict[str, jax.Array], *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return run(unflatten_dict(flat, sep="/"), *arrays)

    return jax.export.export(jax.jit(call), platforms=PLATFORMS)(
        params, *symbolic_inputs(checkpoint, part)
    )
