"""The full pipeline on the Shapes dataset, on two CPU cores in a quarter of an hour:

blip-jax bootstrap --config shapes --workdir runs/shapes
"""

from blip_jax import nn
from blip_jax.capfilt.bootstrap import BootstrapConfig
from blip_jax.runtime.config import replace
from blip_jax.train.config import TrainConfig
from blip_jax.train.optimizer import WarmupCosine


def get_config() -> BootstrapConfig:
    config = BootstrapConfig()
    pretraining = small(config.pretraining, steps=1100, peak_lr=3e-3, min_lr=1e-6)
    captioner = small(config.captioner, steps=300, peak_lr=2e-3)
    filter = small(config.filter, steps=400, peak_lr=2e-3)
    group = {"itm": {"group_size": 64}}
    contrast = {"queue_size": 0, "momentum": 0.9, "alpha_warmup_steps": 400}
    return replace(
        config,
        pretraining=replace(pretraining, task={"itc": {**contrast, "positives": "text"}, **group}),
        captioner=replace(captioner, **{"task.max_length": 23}),  # the prompt is three words more
        filter=replace(filter, task={"itc": {**contrast, "positives": "image"}, **group}),
        capfilt={"decoding": {"max_length": 23}},
    )


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
