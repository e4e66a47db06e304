"""Fine-tune a captioner on COCO, CapFilt's captioner too, from a pre-training:

    blip-jax train --config captioning --workdir runs/captioner \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain

Variants: `vit_b` or `vit_l`. NoCaps has no training captions; the paper evaluates COCO's captioner
on it (`--config evaluate:captioning,nocaps`).
"""

from blip_jax.runtime.variants import choose
from blip_jax.train.recipes import MODELS, captioning


def get_config(variant: str = ""):
    return captioning(*choose("captioning", variant, MODELS))
