"""The device mesh and how batches lie on it.

Axes: `data` (whole copies of the model), `fsdp` (parameters and their moments cut up, gathered
layer by layer), `tensor` (heads, MLP and vocabulary cut up). A batch is cut over `data` and `fsdp`.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from blip_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(sizes: Mapping[str, int], devices: list | None = None) -> Mesh:
    """A mesh with the axes of AXES.

    Args:
      sizes: of each axis; one may be -1, which takes what the others leave. Missing ones are 1.
      devices: all of them if None.

    Raises:
      UserError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise UserError(f"mesh has no axis {unknown[0]!r}; its axes are {', '.join(AXES)}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    for axis, size in zip(AXES, shape, strict=True):
        if size < 1 and size != -1:
            raise UserError(f"mesh {axis} {size}: give 1 or more, or -1 for what the others leave")
    fixed = int(np.prod([size for size in shape if size != -1]))
    shape = [len(devices) // fixed if size == -1 else size for size in shape]
    if np.prod(shape) != len(devices):
        wanted = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
        raise UserError(f"mesh {wanted} does not make the {len(devices)} devices that are there")
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, BATCH)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from this host's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def check_batch(batch_size: int, accumulate: int, group: int, mesh: Mesh) -> None:
    """Raises a UserError unless the batch can be cut as the mesh and the task need it."""
    for name, value in (("accumulate", accumulate), ("negative_group", group)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    micro, rest = divmod(batch_size, accumulate)
    if rest or micro % shards:
        raise UserError(
            f"batch_size {batch_size} cannot be cut into {accumulate} micro-batches "
            f"over {shards} devices: make it a multiple of {accumulate * shards}"
        )
    if micro % group:
        raise UserError(
            f"negative_group {group} does not divide the micro-batch of {micro} pairs; "
            "hard negatives are drawn within whole groups"
        )
