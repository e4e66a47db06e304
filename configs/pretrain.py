"""Pre-train ViT-B as the paper does: global batch 2880, 224 pixels, 20 epochs of 14M pairs:

blip-jax train --config configs/pretrain.py --workdir runs/pretrain --config.mixture=MIXTURE.json

The paper starts from DeiT-B/16 and BERT: --config.initial.vit=deit_base_patch16_224.pth
--config.initial.text=google-bert/bert-base-uncased. Left out, a network begins with random numbers.

The paper's two runs on TPUs, and what they need of these (`compile` runs anywhere):

blip-jax train --config configs/pretrain.py:vit_l,v5e-64 --workdir gs://… --config.mixture=…
blip-jax compile --config configs/pretrain.py:vit_l,v5e-64

`vit_b` or `vit_l` (global batch 2400, 129M pairs: 14M and a fifth of LAION an epoch), with
`v4-32`, `v5e-64`, `v5p-64` or `v6e-64`. These are Google's names: v4-32 and v5p-64 count
TensorCores and are 16 and 32 chips, v5e-64 and v6e-64 are 64 chips.

Hard negatives are drawn among the pairs of one chip, as on the paper's 32 GPUs: 90 of ViT-B and
75 of ViT-L, but 45 of ViT-B on 64 chips. The batch of 2400 does not divide by 64; there ViT-L is
cut in two (`mesh.tensor`), and each pair of chips has 75.
"""

from blip_jax.runtime.errors import UserError
from blip_jax.train import config

# Chips of each machine.
MACHINES = {"v4-32": 16, "v5e-64": 64, "v5p-64": 32, "v6e-64": 64}


def get_config(name=""):
    """`name`: "", a model, or a model and a machine with a comma between."""
    run = config.defaults("pretrain")
    if not name:
        return run
    model, _, machine = name.partition(",")
    if model not in ("vit_b", "vit_l") or machine and machine not in MACHINES:
        known = ", ".join(MACHINES)
        raise UserError(f"configs/pretrain.py has no {name!r}; vit_b or vit_l, and one of {known}")
    if model == "vit_l":
        run.model.preset = "large"
        epoch = 15_400  # steps: 37M pairs
        run.update(batch_size=2400, steps=20 * epoch)
        run.optimizer.update(lr=2e-4, steps_per_epoch=epoch, total_steps=20 * epoch)
        run.objectives.update(negative_group=75, alpha_steps=2 * epoch)
    if machine:
        run.topology = machine
        run.model.remat = "full"
        if MACHINES[machine] == 64:
            run.mesh.tensor = 2 if model == "vit_l" else 1
            run.objectives.negative_group = 75 if model == "vit_l" else 45
    return run
