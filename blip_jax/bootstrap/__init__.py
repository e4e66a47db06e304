"""The whole circle of BLIP in one workdir (`blip-jax bootstrap`).

pre-train -> captioner and filter -> CapFilt -> assemble -> pre-train again -> evaluate -> report
"""

from blip_jax.bootstrap.circle import bootstrap
from blip_jax.bootstrap.config import defaults

__all__ = ["bootstrap", "defaults"]
