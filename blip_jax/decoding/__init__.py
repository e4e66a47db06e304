"""Text from a step function: one jitted loop, cache in and cache out."""

from blip_jax.decoding.loop import Generated, generate
from blip_jax.decoding.sampling import Sampling

__all__ = ["Generated", "Sampling", "generate"]
