"""The full pipeline on the Shapes dataset, on two CPU cores in a quarter of an hour:

blip-jax bootstrap --config shapes --workdir runs/shapes

Variants are synthetic datasets of downstream tasks, in the same world: `vqa` (questions), `pairs`
(statements about two images), `dialog`, `clips` (video files; they need the extra `video`).

    blip-jax prepare --config shapes:vqa --workdir data/vqa

The variant `japanese` is the full pipeline on texts in Japanese: another grammar, no blanks between
words, a unigram tokenizer as sentencepiece's, and texts whose case and script are kept.

    blip-jax bootstrap --config shapes:japanese --workdir runs/japanese
"""

import dataclasses

from blip_jax import nn
from blip_jax.capfilt.bootstrap import BootstrapConfig
from blip_jax.capfilt.bootstrap.config import WorldConfig
from blip_jax.data.synthetic.dataset import ShapesDatasetConfig
from blip_jax.data.synthetic.scenes import World
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint
from blip_jax.train.config import TrainConfig
from blip_jax.train.optimizer import WarmupCosine

KINDS = ("vqa", "pairs", "dialog", "clips")


def get_config(variant: str = "") -> BootstrapConfig | ShapesDatasetConfig:
    """`variant`: the kind of a dataset, or a language; the full pipeline if left out."""
    config = BootstrapConfig()
    if variant in VARIANTS:
        return VARIANTS[variant](pipeline(config))
    return dataset(variant, config.world) if variant else pipeline(config)


def pipeline(config: BootstrapConfig) -> BootstrapConfig:
    """The full pipeline in English."""
    pretraining = small(config.pretraining, steps=1100, peak_lr=3e-3, min_lr=1e-6)
    captioner = small(config.captioner, steps=300, peak_lr=2e-3)
    filter = small(config.filter, steps=400, peak_lr=2e-3)
    both = small(config.captioner_and_filter, steps=400, peak_lr=2e-3)
    group = {"itm": {"group_size": 64}}
    contrast = {"queue_size": 0, "momentum": 0.9, "alpha_warmup_steps": 400}
    return replace(
        config,
        pretraining=replace(pretraining, task={"itc": {**contrast, "positives": "text"}, **group}),
        captioner=replace(captioner, **{"task.max_length": 23}),  # the prompt is three words more
        filter=replace(filter, task={"itc": {**contrast, "positives": "image"}, **group}),
        captioner_and_filter=replace(
            both, task={"itc": {**contrast, "positives": "image"}, **group}
        ),
        capfilt={"decoding": {"max_length": 23}},
    )


def japanese(config: BootstrapConfig) -> BootstrapConfig:
    """The full pipeline in Japanese; the limits are as many tokens as its longest captions have."""
    decoder = {"max_length": 27, "lm": {"prompt": "画像 "}}
    return replace(
        config,
        title="CapFilt on the Shapes dataset in Japanese",
        world={"language": "japanese"},
        tokenizer_type="unigram",
        text_cleanup="unicode",
        pretraining={"task": {"max_length": 24}},
        captioner={"task": decoder},
        filter={"task": {"max_length": 24}},
        captioner_and_filter={"task": decoder},
        capfilt={"decoding": {"max_length": 27}},
    )


VARIANTS = {"japanese": japanese}


def dataset(kind: str, world: WorldConfig) -> ShapesDatasetConfig:
    """The dataset of a downstream task, with scenes as in the pipeline.

    Raises:
      UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"config shapes has no variant {kind!r}; {hint(kind, (*KINDS, *VARIANTS))}")
    names = {field.name for field in dataclasses.fields(World)}
    scenes = {name: x for name, x in dataclasses.asdict(world).items() if name in names}
    return ShapesDatasetConfig(kind=kind, world=World(**scenes))


def small(config: TrainConfig, steps: int, peak_lr: float, min_lr: float = 0.0) -> TrainConfig:
    """The model, batches and schedule that fit this dataset.

    Crops, flips and colour changes would make its captions untrue. Weights change too fast here for
    a queue of past features: it is left out, and the momentum encoder follows closely. Label
    smoothing would put a tenth on random words, just what a nucleus of 0.9 may draw from.
    """
    if config.task.lm:
        config = replace(config, **{"task.lm.label_smoothing": 0.0})
    return replace(
        config,
        model=nn.preset("tiny", vit={"heads": 2}, med={"heads": 2, "mlp_dim": 128}),
        batch_size=64,
        steps=steps,
        optimizer={
            "schedule": WarmupCosine(peak_lr=peak_lr, min_lr=min_lr, warmup_steps=50),
            "b2": 0.95,
            "clip_norm": 1.0,
            "temperature_lr_scale": 0.03,
        },
        **{
            "data.augment": {"min_crop_area": 1.0, "flip": "none", "randaugment": False},
            "task.max_length": 20,
            "checkpoints.every": 200,
        },
    )
