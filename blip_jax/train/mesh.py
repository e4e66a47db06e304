"""The device mesh, and how batches are placed on it.

Axes: `data` (whole copies of the model), `fsdp` (parameters and their moments split, gathered
layer by layer), `tensor` (heads, MLP and vocabulary split). A batch is split over `data` and
`fsdp`.

`data` is the outermost axis: if it has as many as there are hosts or slices, only gradients and
features are exchanged between these, and parameters inside (HSDP). Where there are several TPU
slices, `fsdp` and `tensor` are always inside one.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from blip_jax.runtime.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(sizes: Mapping[str, int], devices: list | None = None) -> Mesh:
    """Returns a mesh with the axes of AXES.

    Args:
      sizes: of each axis; one may be -1, which takes what the others leave. Missing ones are 1.
      devices: all of them if None.

    Raises:
      UserError: an unknown axis, sizes that do not multiply to the number of devices, or `fsdp`
        or `tensor` larger than a slice.
    """
    devices = jax.devices() if devices is None else devices
    unknown = sorted(set(sizes) - set(AXES))
    if unknown:
        raise UserError(f"mesh has no axis {unknown[0]!r}; its axes are {', '.join(AXES)}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    for axis, size in zip(AXES, shape, strict=True):
        if size < 1 and size != -1:
            raise UserError(f"mesh {axis} {size}: give 1 or more, or -1 for what the others leave")
    wanted = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
    fixed = int(np.prod([size for size in shape if size != -1]))
    shape = [len(devices) // fixed if size == -1 else size for size in shape]
    if np.prod(shape) != len(devices):
        raise UserError(f"mesh {wanted} does not match the {len(devices)} devices")
    types = (AxisType.Auto,) * len(AXES)
    is_tpu = devices[0].platform == "tpu"  # GPUs call the devices of a host a slice
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if is_tpu else 1
    if slices > 1:
        return Mesh(hybrid_device_array(shape, slices, devices), AXES, axis_types=types)
    # Not `jax.make_mesh`: only for v5e does it split an axis of the torus, as `tensor` 2 needs on
    # 8 x 8 chips.
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=types)


def hybrid_device_array(shape: list[int], slices: int, devices: list) -> np.ndarray:
    """Returns devices of several slices in the mesh's shape, each slice a block of `data`.

    Raises:
      UserError: the slices do not divide `data`.
    """
    data, *inside = shape
    if data % slices:
        raise UserError(
            f"mesh data {data} is not a multiple of the {slices} slices; give fsdp and tensor "
            "sizes that fit within one slice"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *inside), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, BATCH)


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Returns int [R]: which rows of a global batch of `size` are on this process's devices.

    Usually a block; not with every order of devices. Processes that only differ in `tensor` have
    the same.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((size,))
    return np.unique([row for (place,) in places.values() for row in range(*place.indices(size))])


def put_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, size: int | None = None
) -> dict[str, jax.Array]:
    """Returns global arrays made from this process's rows of a batch.

    Args:
      batch: arrays of the rows that `local_rows` names.
      size: rows of the global batch; None: as many as there are here.
    """
    sharding = batch_sharding(mesh)
    size = len(next(iter(batch.values()))) if size is None else size
    rows = local_rows(mesh, size)

    def put(value: np.ndarray) -> jax.Array:
        def part(index: tuple) -> np.ndarray:
            first, stop, _ = index[0].indices(size)
            at = np.searchsorted(rows, first)
            return value[at : at + stop - first]

        return jax.make_array_from_callback((size, *value.shape[1:]), sharding, part)

    return {name: put(value) for name, value in batch.items()}


def check_batch(batch_size: int, accumulate_steps: int, group_size: int, mesh: Mesh) -> None:
    """Raises a UserError unless the batch can be split as the mesh and the task need it."""
    for name, value in (("accumulate_steps", accumulate_steps), ("group_size", group_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    micro, rest = divmod(batch_size, accumulate_steps)
    if rest or micro % shards:
        parts = f"{accumulate_steps} micro-batches over " if accumulate_steps > 1 else ""
        raise UserError(
            f"batch_size {batch_size} cannot be split into {parts}{shards} devices; make it a "
            f"multiple of {accumulate_steps * shards}, or let devices share rows with "
            "--config.mesh.tensor=2"
        )
    if micro % group_size:
        raise UserError(
            f"the micro-batch of {micro} rows is not a multiple of task.itm.group_size "
            f"{group_size}, within which hard negatives are drawn; change either"
        )
