"""The whole circle on the Shapes dataset, on two CPU cores in a quarter of an hour:

blip-jax bootstrap --config configs/shapes.py --workdir runs/shapes
"""

from blip_jax.capfilt import bootstrap


def get_config():
    config = bootstrap.defaults()
    for task in ("pretrain", "captioner", "filter"):
        small(config[task])
    schedule(config.pretrain, steps=1100, lr=3e-3)
    schedule(config.captioner, steps=300, lr=2e-3)
    schedule(config.filter, steps=400, lr=2e-3)
    config.captioner.max_length = 23  # the prompt is three words more
    config.capfilt.max_length = 23
    config.filter.objectives.positives = "image"
    return config


def small(config):
    """The model, batches and objectives that fit this world.

    Crops, flips and colour changes would make its captions untrue. Weights move too fast here for
    a queue of past features: it is left out, and the momentum encoder follows closely. Label
    smoothing would put a tenth on words at random, just what a nucleus of 0.9 may draw from.
    """
    config.model.preset = "tiny"
    config.model.changes = {"vit": {"heads": 2}, "med": {"heads": 2, "mlp_dim": 128}}
    config.augment.update(crop=1.0, flip="none", randaugment=False)
    config.max_length = 20
    config.batch_size = 64
    config.objectives.update(
        queue=0, momentum=0.9, alpha_steps=400, negative_group=64, positives="text", smoothing=0.0
    )
    config.save_every = 200


def schedule(config, steps, lr):
    """Cosine after a short warm-up, at rates that a small model from scratch wants."""
    config.steps = steps
    config.optimizer.update(
        name="cosine", lr=lr, warmup_steps=50, total_steps=steps, b2=0.95, clip_norm=1.0,
        temperature_scale=0.03,
    )  # fmt: skip
