"""Fine-tune a captioner, CapFilt's captioner too, from a pre-training; the recipe is COCO's:

    blip-jax train --config captioning --workdir runs/captioner \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain
"""

from blip_jax.train.config import captioning


def get_config():
    return captioning()
