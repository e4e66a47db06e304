"""Fine-tune for statements about two images (NLVR2) from a pre-training:

    blip-jax train --config nlvr --workdir runs/nlvr \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain

Variants: `vit_b` or `vit_l`.
"""

from blip_jax.runtime.variants import choose
from blip_jax.train.recipes import MODELS, nlvr


def get_config(variant: str = ""):
    return nlvr(*choose("nlvr", variant, MODELS))
