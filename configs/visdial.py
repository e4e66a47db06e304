"""Fine-tune for dialogs about an image (VisDial v1.0) from a pre-training:

    blip-jax train --config visdial --workdir runs/visdial \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain

Variants: `vit_b` or `vit_l`.
"""

from blip_jax.runtime.variants import choose
from blip_jax.train.recipes import MODELS, visdial


def get_config(variant: str = ""):
    return visdial(*choose("visdial", variant, MODELS))
