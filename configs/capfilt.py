"""Caption and filter a dataset with two fine-tuned models:

    blip-jax capfilt --config configs/capfilt.py --workdir runs/capfilt \\
        --config.dataset=DIR --config.captioner=RUN --config.filter=RUN --config.human=DIR
"""

from blip_jax.capfilt import command


def get_config():
    return command.defaults()
