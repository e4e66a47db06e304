"""Fine-tune for visual question answering from a pre-training; the recipe is VQA v2's:

    blip-jax train --config vqa --workdir runs/vqa \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain

Answers are generated in evaluation; `--config.task.candidates=DATASET` ranks the training answers
of a dataset instead, as the paper does.
"""

from blip_jax.train.config import vqa


def get_config():
    return vqa()
