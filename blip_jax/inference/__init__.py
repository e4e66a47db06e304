"""A trained model in use: `load` finds it, `Model` has the methods, `programs` are what runs."""

from blip_jax.inference import loading, programs
from blip_jax.inference.loading import load
from blip_jax.inference.model import Model
from blip_jax.inference.texts import Caption, Match

__all__ = ["Caption", "Match", "Model", "load", "loading", "programs"]
