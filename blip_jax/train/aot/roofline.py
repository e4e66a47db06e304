"""Computes the least time that a chip needs for a program, from its peak rates."""

import math
from typing import Any, NamedTuple

import jax

from blip_jax.train.chips import Chip
from blip_jax.train.sharding import shardings
from blip_jax.train.state import TrainState


class Roofline(NamedTuple):
    """Seconds that a chip's compute units, HBM and links each need at their peak rates.

    The longest of the three is a lower bound of the program's time: it assumes that they fully
    overlap, and leaves out vector work (above all random bits for dropout) and waiting.
    """

    compute_seconds: float
    hbm_seconds: float
    ici_seconds: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def limit(self) -> str:
        """Returns which of the three takes longest: "compute", "HBM" or "ICI"."""
        return ("compute", "HBM", "ICI")[self.index(self.seconds)]


def roofline(chip: Chip, flops: float, hbm_bytes: float, ici_bytes: float) -> Roofline:
    """Returns the roofline of one chip's FLOPs, HBM bytes, and bytes from other chips."""
    return Roofline(
        compute_seconds=flops / chip.flops,
        hbm_seconds=hbm_bytes / (chip.hbm_gb_per_second * 1e9),
        ici_seconds=ici_bytes / (chip.ici_gb_per_second * 1e9),
    )


def update_bytes(state: TrainState) -> int:
    """Returns the HBM bytes on a chip that no step can do without, whatever its batch.

    Gradients are written once and read once, and so is what a chip keeps of parameters, moments and
    momentum weights.

    Args:
      state: shapes, with their shardings between steps.
    """
    mesh = state.step.sharding.mesh
    in_use = shardings({"params": state.params}, mesh, in_use=True)
    kept = jax.tree.leaves((state.params, state.opt_state, state.extra.get("momentum", {})))

    def size(x: Any, sharding: Any) -> int:
        return math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize

    gradients = zip(jax.tree.leaves(state.params), jax.tree.leaves(in_use), strict=True)
    return 2 * (sum(size(x, x.sharding) for x in kept) + sum(size(*pair) for pair in gradients))
