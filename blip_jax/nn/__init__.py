"""BLIP's networks in Flax Linen, their configurations and their parameters.

config = nn.preset("base", vit={"image_size": 384})
params = nn.init(config, jax.random.key(0))
tokens = nn.Blip(config).apply({"params": params}, images, method="encode_image")
"""

from blip_jax.nn.aligned import Aligned
from blip_jax.nn.blip import Blip, init_cache, momentum_params, set_first_token, with_enc_token
from blip_jax.nn.configs import (
    PRESETS,
    QUIRKS,
    BlipConfig,
    MedConfig,
    ViTConfig,
    param_group_name,
    preset,
)
from blip_jax.nn.med_layers import separate_layers
from blip_jax.nn.model_types import (
    MODEL_TYPES,
    ModelType,
    init,
    network,
    param_shapes,
    register_model_type,
)
from blip_jax.nn.nlvr import Nlvr
from blip_jax.nn.vit import resize_position_embedding
from blip_jax.nn.vqa import Vqa

__all__ = [
    "MODEL_TYPES",
    "PRESETS",
    "QUIRKS",
    "Aligned",
    "Blip",
    "BlipConfig",
    "MedConfig",
    "ModelType",
    "Nlvr",
    "ViTConfig",
    "Vqa",
    "set_first_token",
    "with_enc_token",
    "init",
    "init_cache",
    "momentum_params",
    "network",
    "param_group_name",
    "preset",
    "register_model_type",
    "resize_position_embedding",
    "param_shapes",
    "separate_layers",
]
