"""Measure a trained model on a dataset, retrieval and captions:

    blip-jax evaluate --config configs/evaluate.py --workdir runs/eval \\
        --config.model=RUN --config.dataset=DIR --config.split=test
"""

from blip_jax.tasks import evaluate


def get_config():
    return evaluate.defaults()
