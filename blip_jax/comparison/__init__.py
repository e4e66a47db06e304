"""Downstream tasks learned from a pre-training, from scratch and without images (`compare`).

pre-train -> for each seed and task: datasets -> fine-tune in each arm -> evaluate -> table
"""

from blip_jax.comparison.config import ComparisonConfig
from blip_jax.comparison.run import compare

__all__ = ["ComparisonConfig", "compare"]
