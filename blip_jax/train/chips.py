"""Peak performance of TPU and GPU chips, for MFU and for the roofline of a compiled program."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's specifications, as Google states them.

    Source: "System architecture" of each generation, docs.cloud.google.com/tpu/docs/v4, v5e, v5p
    and v6e.

    Attributes:
      flops: peak bfloat16 FLOP/s.
      hbm_gib: GiB of HBM. The compiler reserves some of it and rejects programs that need more than
        the rest.
      hbm_gb_per_second: HBM bandwidth in GB/s (1e9 bytes).
      ici_gb_per_second: GB/s from a chip to other chips, all its links together, one direction.
      axes: number of axes of the torus.
      cores: TensorCores per chip as counted in the names of machine types.
    """

    flops: float
    hbm_gib: float
    hbm_gb_per_second: float
    ici_gb_per_second: float
    axes: int
    cores: int = 1


CHIPS = {
    "v4": Chip(275e12, 32, 1200, 300, axes=3, cores=2),
    "v5e": Chip(197e12, 16, 819, 200, axes=2),
    "v5p": Chip(459e12, 95, 2765, 600, axes=3, cores=2),
    "v6e": Chip(918e12, 32, 1640, 400, axes=2),
}
# Peak bfloat16 FLOP/s (without sparsity) by JAX's name of the device (`Device.device_kind`).
PEAK_FLOPS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: jax.Device) -> float:
    """Returns the peak bfloat16 FLOP/s of a device; 0 if it is not known (CPUs)."""
    exact = PEAK_FLOPS.get(device.device_kind)
    if exact:
        return exact
    known = (flops for name, flops in PEAK_FLOPS.items() if device.device_kind.startswith(name))
    return next(known, 0.0)
