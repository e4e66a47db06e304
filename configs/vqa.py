"""Fine-tune for visual question answering from a pre-training, at 480 pixels:

    blip-jax train --config vqa --workdir runs/vqa \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/pretrain

Variants: `vqa_v2_vg` (the paper's: training and validation split of VQA v2 and Visual Genome) or
`vqa_v2` (without Visual Genome), and `vit_b` or `vit_l`. In the mixture the weights of the three
datasets are their numbers of questions, 444, 214 and 726 (thousands).

Answers are generated in evaluation; `--config.task.candidates=DATASET` ranks the training answers
of a dataset instead, as the paper does.
"""

from blip_jax.runtime.variants import choose
from blip_jax.train.recipes import MODELS, VQA_QUESTIONS, vqa


def get_config(variant: str = ""):
    return vqa(*choose("vqa", variant, VQA_QUESTIONS, MODELS))
