"""The whole circle on the embedded world, on two CPU cores in a quarter of an hour:

blip-jax bootstrap --config configs/shapes.py --workdir runs/shapes
"""

from blip_jax import bootstrap


def get_config():
    config = bootstrap.defaults()
    for task in ("pretrain", "captioner", "filter"):
        small(config[task])
    schedule(config.pretrain, steps=1200, lr=3e-3)
    schedule(config.captioner, steps=300, lr=1e-3)
    schedule(config.filter, steps=400, lr=1e-3)
    config.filter.objectives.positives = "text"
    return config


def small(config):
    """The model, batches and objectives that fit this world; no crops, flips or colour changes,
    which would make its captions untrue."""
    config.model.preset = "tiny"
    config.model.changes = {"med": {"mlp": 128}}
    config.augment.update(crop=1.0, flip="none", randaugment=False)
    config.max_length = 24
    config.batch_size = 64
    config.objectives.update(
        queue=256, momentum=0.95, alpha=0.4, alpha_steps=400, negative_group=64, positives="text"
    )
    config.log_every = 50
    config.save_every = 200


def schedule(config, steps, lr):
    config.steps = steps
    config.optimizer.update(
        name="cosine", lr=lr, warmup_steps=50, total_steps=steps, b2=0.95, clip_norm=1.0,
        temperature_scale=0.03,
    )  # fmt: skip
