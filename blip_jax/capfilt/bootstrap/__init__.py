"""The full BLIP pipeline in one workdir (`blip-jax bootstrap`).

pre-train -> captioner and filter -> CapFilt -> assemble -> pre-train again -> evaluate -> report
"""

from blip_jax.capfilt.bootstrap.config import BootstrapConfig
from blip_jax.capfilt.bootstrap.run import bootstrap

__all__ = ["BootstrapConfig", "bootstrap"]
