"""Text from a step function: one jitted loop, cache in and cache out; and texts ranked."""

from blip_jax.decoding.config import Decoding
from blip_jax.decoding.loop import generate
from blip_jax.decoding.prefill import Generated
from blip_jax.decoding.ranking import log_likelihood, shortlist

__all__ = ["Decoding", "Generated", "generate", "log_likelihood", "shortlist"]
