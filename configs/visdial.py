"""Fine-tune for dialogs about an image from a pre-training; the recipe is VisDial's (BLIP's paper):

    blip-jax train --config visdial --workdir runs/visdial \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain
"""

from blip_jax.train.config import visdial


def get_config():
    return visdial()
