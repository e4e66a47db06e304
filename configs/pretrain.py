"""Pre-train ViT-B as the paper does: global batch 2880, 224 pixels, 20 epochs of 14M pairs:

blip-jax train --config configs/pretrain.py --workdir runs/pretrain --config.view=VIEW.json

The paper starts from DeiT-B/16 and BERT: --config.initial.vit=deit_base_patch16_224.pth
--config.initial.text=google-bert/bert-base-uncased. Left out, a network begins with random numbers.
"""

from blip_jax.train import config


def get_config():
    return config.defaults("pretrain")
