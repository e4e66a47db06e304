"""Fine-tune for statements about two images from a pre-training; the recipe is NLVR2's:

    blip-jax train --config nlvr --workdir runs/nlvr \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain
"""

from blip_jax.train.config import nlvr


def get_config():
    return nlvr()
