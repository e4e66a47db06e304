"""Parameters whose matrices are stored as int8, each output channel with a scale of its own.

Only storage is int8: they are float32 again once they are read, and so is what is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

TRUNKS = ("vit", "med")  # what is stored as int8; the heads after them are small
STACKS = ("blocks", "layers")  # modules whose parameters have an axis of layers
VALUES, SCALE = "int8", "scale"  # a matrix is a dict of these


def summed_axes(path: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the axes of a parameter that its product sums over; () if it is no matrix.

    Args:
      path: its names in the nested dict.
    """
    name = path[-1]
    if path[0] not in TRUNKS or not (name == "word" or name.endswith("kernel")):
        return ()
    if name == "word":  # [tokens, width]: embeddings, and the last product of the decoder
        return (1,)
    first = int(any(stack in path for stack in STACKS) or path[-2].endswith("_context"))
    # Output projections of attention have two axes for what they read, the heads and their width.
    return (first, first + 1) if path[-2] == "out" else (first,)


def quantize(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters with each matrix as {"int8": …, "scale": …}, by Qwix.

    The scale is float32 of the same rank, of size 1 along the summed axes, and such that the
    largest magnitude of a channel becomes 127.
    """
    import jax.numpy as jnp
    import qwix

    found = {}
    for path, x in flatten_dict(params).items():
        axes = summed_axes(path)
        if not axes:
            found[path] = x
            continue
        channels = [axis for axis in range(np.ndim(x)) if axis not in axes]
        array = qwix.quantize(jnp.asarray(x), jnp.int8, channelwise_axes=channels)
        found[path] = {VALUES: np.asarray(array.qvalue), SCALE: np.asarray(array.scale)}
    return unflatten_dict(found)


def dequantize(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters in float32; those that are stored so stay as they are."""
    if isinstance(params, dict) and params.keys() == {VALUES, SCALE}:
        return np.asarray(params[VALUES], np.float32) * np.asarray(params[SCALE], np.float32)
    if isinstance(params, dict):
        return {name: dequantize(value) for name, value in params.items()}
    return params
