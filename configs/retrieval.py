"""Fine-tune a filter from a pre-training (--config.init_from=RUN), by the retrieval recipe:

blip-jax train --config configs/retrieval.py --workdir runs/filter --config.mixture=MIXTURE.json
"""

from blip_jax.train import config


def get_config():
    return config.defaults("filter")
