"""Pre-train ViT-B as the paper does: global batch 2880, 224 pixels, 20 epochs of 14M pairs:

blip-jax train --config configs/pretrain.py --workdir runs/pretrain --config.view=VIEW.json
"""

from blip_jax.train import config


def get_config():
    return config.defaults("pretrain")
