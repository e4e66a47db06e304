"""BLIP's networks in Flax Linen, their configurations and their parameters.

config = nn.preset("base", vit={"image_size": 384})
params = nn.init(config, jax.random.key(0))
tokens = nn.Blip(config).apply({"params": params}, images, method="encode_image")
"""

from blip_jax.nn.aligned import Aligned
from blip_jax.nn.blip import Blip, first_token, grounded, init_cache, momentum_subtree
from blip_jax.nn.configs import (
    QUIRKS,
    BlipConfig,
    MedConfig,
    ViTConfig,
    from_dict,
    part_name,
    preset,
    to_dict,
)
from blip_jax.nn.model_types import KINDS, init, network, shapes
from blip_jax.nn.nlvr import Nlvr
from blip_jax.nn.vit import resize_position
from blip_jax.nn.vqa import Vqa

__all__ = [
    "KINDS",
    "QUIRKS",
    "Aligned",
    "Blip",
    "BlipConfig",
    "MedConfig",
    "Nlvr",
    "ViTConfig",
    "Vqa",
    "first_token",
    "from_dict",
    "grounded",
    "init",
    "init_cache",
    "momentum_subtree",
    "network",
    "part_name",
    "preset",
    "resize_position",
    "shapes",
    "to_dict",
]
