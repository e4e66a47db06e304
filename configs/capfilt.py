"""Caption and filter a dataset with two fine-tuned models:

    blip-jax capfilt --workdir runs/capfilt --config.dataset=DIR \\
        --config.captioners=RUN --config.filters=RUN --config.human_dataset=DIR
"""

from blip_jax.capfilt.config import CapFiltConfig


def get_config():
    return CapFiltConfig()
