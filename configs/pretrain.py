"""Pre-train ViT-B as the paper does: global batch 2880, 224 pixels, 20 epochs of 14M pairs:

    blip-jax train --config pretrain --workdir runs/pretrain --config.data.mixture=MIXTURE.json

The paper starts from DeiT-B/16 and BERT: --config.init.vit=deit_base_patch16_224.pth
--config.init.text_encoder=google-bert/bert-base-uncased. Left out, a network starts with random
numbers.

The paper's two runs on TPUs, and what they need of these (`compile` runs anywhere):

    blip-jax train --config pretrain:vit_l,v5e-64 --workdir gs://… --config.data.mixture=…
    blip-jax compile --config pretrain:vit_l,v5e-64

Variants: `vit_b` or `vit_l` (global batch 2400, 129M pairs: 14M and a fifth of LAION an epoch), or
`tiny` (a network for tests), each alone or with a machine: `v4-32`, `v5e-64`, `v5p-64`, `v6e-64`,
or any other size of these families. These are Google's names: v4-32 and v5p-64 count TensorCores
and are 16 and 32 chips, v5e-64 and v6e-64 are 64 chips.

Hard negatives are drawn among the pairs of one chip, as on the paper's 32 GPUs: 90 of ViT-B and
75 of ViT-L, but 45 of ViT-B on 64 chips. The batch of 2400 does not divide by 64; there ViT-L is
split over two chips (`mesh.tensor`), and each pair of chips has 75.
"""

import math

from blip_jax import nn
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint
from blip_jax.train.aot import topology
from blip_jax.train.config import TrainConfig
from blip_jax.train.recipes import pretraining

MODELS = ("vit_b", "vit_l", "tiny")
# Where keeping the results of matrix products is faster than computing all layers again, and leaves
# a tenth of the memory free (`blip-jax compile` with --config.model.remat=dots and full).
KEEPS_PRODUCTS = {
    ("vit_b", "v4"), ("vit_b", "v5e"), ("vit_b", "v5p"),
    ("vit_l", "v4"), ("vit_l", "v5e"), ("vit_l", "v5p"),
}  # fmt: skip


def get_config(variant: str = "vit_b") -> TrainConfig:
    """`variant`: a model, or a model and a machine with a comma between."""
    model, _, machine = variant.partition(",")
    if model not in MODELS:
        raise UserError(f"config pretrain has no variant {model!r}; {hint(model, MODELS)}")
    config = pretraining()
    if model == "tiny":
        config = replace(config, model=nn.preset("tiny"))
    if model == "vit_l":
        config = vit_l(config)
    if not machine:
        return config
    generation = topology.resolve(machine).partition(":")[0]
    remat = "dots" if (model, generation) in KEEPS_PRODUCTS else "full"
    return on_machine(replace(config, model={"remat": remat}), machine)


def vit_l(config: TrainConfig) -> TrainConfig:
    """The paper's pre-training of ViT-L on 129M pairs."""
    epoch = 15_400  # steps: 37M pairs
    schedule = {"peak_lr": 2e-4, "steps_per_epoch": epoch}
    return replace(
        config,
        model=nn.preset("large"),
        batch_size=2400,
        steps=20 * epoch,
        optimizer={"schedule": schedule},
        task={"itm": {"group_size": 75}, "itc": {"alpha_warmup_steps": 2 * epoch}},
    )


def on_machine(config: TrainConfig, machine: str) -> TrainConfig:
    """The run on a TPU machine, with as little tensor parallelism as fits.

    Raises:
      UserError: there is no such machine, or the batch cannot be divided among its chips.
    """
    chips = topology.chips(topology.resolve(machine))
    model, batch = config.model, config.batch_size
    heads = math.gcd(model.vit.heads, model.med.heads)
    for tensor in (1, 2, 4, 8):
        parts = chips // tensor
        if chips % tensor == 0 and heads % tensor == 0 and batch % parts == 0:
            # Negatives among the pairs of one chip, or of the chips that share a part of the model.
            group = math.gcd(batch // parts, config.task.itm.group_size)
            return replace(
                config,
                topology=machine,
                mesh={"tensor": tensor},
                task={"itm": {"group_size": group}},
            )
    raise UserError(
        f"{machine} has {chips} chips, among which a batch of {batch} cannot be divided; give "
        f"--config.batch_size a multiple of {chips} without the machine in --config"
    )
