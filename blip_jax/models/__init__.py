"""Trained models in use: what a notebook imports.

from blip_jax import models
blip = models.load("model_base_caption_capfilt_large.pth")
blip.caption(images)

config = models.preset("base", vit={"image_size": 384})
params = models.init(config, jax.random.key(0))
"""

from blip_jax.models.inputs import Caption, Match
from blip_jax.models.loading import load
from blip_jax.models.model import Model
from blip_jax.nn import (
    QUIRKS,
    Blip,
    BlipConfig,
    MedConfig,
    Nlvr,
    ViTConfig,
    Vqa,
    init,
    network,
    preset,
)

__all__ = [
    "QUIRKS",
    "Blip",
    "BlipConfig",
    "Caption",
    "Match",
    "MedConfig",
    "Model",
    "Nlvr",
    "ViTConfig",
    "Vqa",
    "init",
    "load",
    "network",
    "preset",
]
