"""Fine-tune for retrieval, CapFilt's filter too, from a pre-training:

    blip-jax train --config retrieval --workdir runs/filter \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain

Variants: `coco` or `flickr30k`, and `vit_b` or `vit_l`:

    blip-jax train --config retrieval:flickr30k,vit_l --workdir runs/flickr30k \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain_l

COCO's hard negatives are drawn among the whole batch; with another batch size give
--config.task.itm.group_size one that divides it.
"""

from blip_jax.runtime.variants import choose
from blip_jax.train.recipes import MODELS, PAIRS, retrieval


def get_config(variant: str = ""):
    return retrieval(*choose("retrieval", variant, PAIRS, MODELS))
