"""Computes the least time that a chip needs for a program, from its peak rates."""

from typing import NamedTuple

from blip_jax.train.chips import Chip


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
