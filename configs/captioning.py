"""Fine-tune a captioner from a pre-training (--config.init_from=RUN), as for COCO:

blip-jax train --config configs/captioning.py --workdir runs/captioner --config.mixture=MIXTURE.json
"""

from blip_jax.train import config


def get_config():
    return config.defaults("captioner")
