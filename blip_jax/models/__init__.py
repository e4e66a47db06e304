"""Trained models in use: what a notebook imports.

from blip_jax import models
blip = models.load("model_base_caption_capfilt_large.pth")
blip.caption(images)

config = models.preset("base", vit={"image_size": 384})
params = models.init(config, jax.random.key(0))
"""

from blip_jax.decoding import Decoding
from blip_jax.models.loading import load
from blip_jax.models.model import Model
from blip_jax.models.notebook import Table
from blip_jax.models.results import Answer, Caption, GradCam, Match, RankedOptions
from blip_jax.nn import (
    PRESETS,
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
    "PRESETS",
    "QUIRKS",
    "Answer",
    "Blip",
    "BlipConfig",
    "Caption",
    "Decoding",
    "GradCam",
    "Match",
    "MedConfig",
    "Model",
    "Nlvr",
    "RankedOptions",
    "Table",
    "ViTConfig",
    "Vqa",
    "init",
    "load",
    "network",
    "preset",
]


def __dir__() -> list[str]:
    return __all__
