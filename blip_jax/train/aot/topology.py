"""TPU chips and topologies, for compiling without a TPU.

A topology is written as `v5p:4x4x4`: a generation, and the number of chips along each axis of its
torus. Google's machine types count differently: **v4-32 and v5p-64 count TensorCores, two per
chip** (16 and 32 chips), v5e-64 and v6e-64 count chips.
"""

import importlib.util
import math
import os
import re

from blip_jax.runtime.errors import UserError
from blip_jax.train.chips import CHIPS, Chip

# Shapes of the available machines, by number of axes and number of chips.
SHAPES = {
    2: {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {
        4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8",
        512: "8x8x8",
    },
}  # fmt: skip
# Environment that the TPU compiler requires on a machine without a TPU. The accelerator type has to
# be set but is not used: the topology decides the target. The last variable lets several processes
# compile at the same time.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def prepare() -> None:
    """Sets the variables of ENVIRONMENT; must be called before jax is imported."""
    os.environ.update(ENVIRONMENT)


def topology_of_machine(name: str) -> str:
    """Returns a machine type's topology: "v5p:2x4x4" of "v5p-64", "v5e:8x8" of "v5e-64".

    Raises:
      UserError: no such generation, or no machine of that size.
    """
    match = re.fullmatch(r"(v\w+)-(\d+)", name)
    if not match or match[1] not in CHIPS:
        raise UserError(
            f"unknown topology {name!r}; known: {examples()}, or a machine type: v5p-64"
        )
    generation = match[1]
    chip = CHIPS[generation]
    shapes = SHAPES[chip.axes]
    num_chips, remainder = divmod(int(match[2]), chip.cores)
    if remainder or num_chips not in shapes:
        known = ", ".join(f"{generation}-{size * chip.cores}" for size in shapes)
        raise UserError(f"unknown machine type {name!r}; known: {known}")
    return f"{generation}:{shapes[num_chips]}"


def resolve(name: str) -> str:
    """Returns the topology of `name`, which is a topology itself or a machine type.

    Raises:
      UserError: `name` is neither.
    """
    name = name if ":" in name else topology_of_machine(name)
    parse(name)
    return name


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Returns a topology's kind of chip, and the number of chips along each axis.

    Raises:
      UserError: malformed, an unknown chip, or the wrong number of axes.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"unknown topology {topology!r}; known: {examples()}")
    sizes = tuple(int(size) for size in shape.split("x"))
    if len(sizes) != CHIPS[name].axes:
        raise UserError(
            f"topology {topology!r} has {len(sizes)} axes, {name} has {CHIPS[name].axes}; "
            f"known: {examples()}"
        )
    return CHIPS[name], sizes


def examples() -> str:
    """Returns example topologies for a message, two of each generation."""
    return ", ".join(
        f"{name}:{SHAPES[chip.axes][size]}" for name, chip in CHIPS.items() for size in (16, 64)
    )


def chips(topology: str) -> int:
    return math.prod(parse(topology)[1])


def devices(topology: str) -> list:
    """Returns the chips as jax devices, for meshes and shardings; nothing can run on them.

    Raises:
      UserError: the topology is unknown, or the TPU compiler is not installed.
    """
    parse(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler (libtpu) is missing: install this package's `tpu` extra, "
            'pip install "blip-jax[tpu]" (Linux, x86-64)'
        )
    from jax.experimental import topologies

    # Without megacore the two TensorCores of a v4 chip would be separate devices.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:  # the compiler raises several types
        reason = str(error).strip().splitlines()[-1:]
        raise UserError(
            f"libtpu does not know topology {topology!r} ({''.join(reason)[:120]}); "
            f"known: {examples()}"
        ) from error
    return description.devices
