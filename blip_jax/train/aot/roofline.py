"""The least time that a chip needs for a program, by its peak rates."""

from typing import NamedTuple

from blip_jax.train.chips import Chip


class Roofline(NamedTuple):
    """Seconds that each of a chip's means needs at its peak; with all busy at once, the step's.

    It is a bound from below: vector work (random bits for dropout above all), waiting and what
    does not overlap come on top.
    """

    compute: float
    hbm: float
    ici: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def limit(self) -> str:
        """Returns which of the three takes longest: "compute", "HBM" or "ICI"."""
        return ("compute", "HBM", "ICI")[self.index(self.seconds)]


def roofline(chip: Chip, flops: float, hbm: float, ici: float) -> Roofline:
    """Returns the roofline of one chip's FLOPs, HBM bytes, and bytes from other chips."""
    return Roofline(flops / chip.flops, hbm / (chip.bandwidth * 1e9), ici / (chip.ici * 1e9))
