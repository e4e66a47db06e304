"""BLIP's networks: what Colab imports.

from blip_jax import models
config = models.preset("base", vit={"image_size": 384})
params = models.init(config, jax.random.key(0))
tokens = models.Blip(config).apply({"params": params}, images, method="encode_image")
"""

from blip_jax.models.blip import Blip, first_token, init, init_cache, momentum_subtree
from blip_jax.models.configs import BlipConfig, MedConfig, ViTConfig, from_dict, preset, to_dict
from blip_jax.models.vit import resize_position

__all__ = [
    "Blip",
    "BlipConfig",
    "MedConfig",
    "ViTConfig",
    "first_token",
    "from_dict",
    "init",
    "init_cache",
    "momentum_subtree",
    "preset",
    "resize_position",
    "to_dict",
]
