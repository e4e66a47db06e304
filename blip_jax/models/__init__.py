"""BLIP's networks: what Colab imports.

from blip_jax import models
blip = models.load("model_base_caption_capfilt_large.pth")
blip.caption(images)

config = models.preset("base", vit={"image_size": 384})
params = models.init(config, jax.random.key(0))
tokens = models.Blip(config).apply({"params": params}, images, method="encode_image")
"""

from typing import TYPE_CHECKING, Any

from blip_jax.models.aligned import Aligned
from blip_jax.models.blip import Blip, first_token, grounded, init_cache, momentum_subtree
from blip_jax.models.configs import (
    QUIRKS,
    BlipConfig,
    MedConfig,
    ViTConfig,
    from_dict,
    part_name,
    preset,
    to_dict,
)
from blip_jax.models.kinds import KINDS, init, network, shapes
from blip_jax.models.nlvr import Nlvr
from blip_jax.models.vit import resize_position
from blip_jax.models.vqa import Vqa

if TYPE_CHECKING:
    from blip_jax.inference import Model

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
    "load",
    "momentum_subtree",
    "network",
    "part_name",
    "preset",
    "resize_position",
    "shapes",
    "to_dict",
]


def load(source: str, **options: Any) -> "Model":
    """A model with methods to caption, match, answer and embed; see `inference.load`.

    Args:
      source: a workdir, a `.pth` of the original, a Hugging Face folder or id; local or `gs://`.
      **options: image_size, dtype, tokenizer, quirks, heads.
    """
    from blip_jax import inference  # which itself needs the networks

    return inference.load(source, **options)
