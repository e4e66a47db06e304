"""Fine-tune for retrieval, CapFilt's filter too, from a pre-training; the recipe is COCO's:

    blip-jax train --config retrieval --workdir runs/filter \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain
"""

from blip_jax.train.config import retrieval


def get_config():
    return retrieval()
