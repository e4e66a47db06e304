"""Text generation from a step function, in one jitted loop; and ranking of given texts."""

from blip_jax.decoding.config import Decoding, DecodingParams, DecodingShape
from blip_jax.decoding.loop import generate
from blip_jax.decoding.prefill import Generated
from blip_jax.decoding.ranking import log_likelihood, top_candidates

__all__ = [
    "Decoding",
    "DecodingParams",
    "DecodingShape",
    "Generated",
    "generate",
    "log_likelihood",
    "top_candidates",
]
