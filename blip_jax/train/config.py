"""The fields of a training run, with BLIP's values. A config file starts from `defaults`.

The ConfigDict is locked: a field that is not here is an error that names its nearest neighbour.
"""

from ml_collections import ConfigDict

from blip_jax import nn
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import TASKS
from blip_jax.tasks.objectives import Objectives

PROMPT = "a picture of "


def defaults(task: str) -> ConfigDict:
    """The run of `task` ("pretrain", "captioner", "filter") with the paper's values."""
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    config = ConfigDict({
        "task": task,
        "seed": 0,
        # A preset of `blip_jax.models` and what differs from it, nested: {"vit": {"depth": 6}}.
        # `remat` is what the backward pass computes again to save memory (models/configs.py).
        "model": ConfigDict({
            "preset": "base", "remat": "none", "changes": ConfigDict(convert_dict=False),
        }),
        "tokenizer": "bert-base-uncased",  # hub id, or a folder with vocab.txt
        "mixture": "",  # what to train on: a mixture file (data/mixture.py)
        "init_from": "",  # workdir whose newest parameters to start from
        # Or fresh parameters but for these: a ViT (.pth or .npz of DeiT, augreg), and a BERT
        # (Hugging Face folder or id) for the text transformer.
        "initial": ConfigDict({"vit": "", "text": ""}),
        "max_length": 30,  # tokens
        "prompt": "",  # put before every text, and not learned by LM
        "augment": ConfigDict({"crop": 0.2, "flip": "image", "randaugment": True}),
        "batch_size": 2880,  # pairs, over all devices
        "accumulate": 1,
        "steps": 98_000,
        "objectives": ConfigDict(TASKS[task]),
        "optimizer": ConfigDict({
            "name": "step", "lr": 3e-4, "min_lr": 1e-6, "warmup_lr": 1e-6, "warmup_steps": 3000,
            "decay_rate": 0.9, "steps_per_epoch": 4900, "epochs": 20, "total_steps": 98_000,
            "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.05, "clip_norm": 0.0,
            "temperature_scale": 1.0,  # of the temperature's learning rate
        }),
        "mesh": ConfigDict({"data": -1, "fsdp": 1, "tensor": 1}),
        "topology": "",  # what `blip-jax compile` compiles for; training asks the machine
        "log_every": 50,
        "save_every": 1000,
        "keep": 1,  # checkpoints, the newest
        "keep_every": 0,  # and those at multiples of so many steps; 0: none
    })  # fmt: skip
    if task != "pretrain":  # COCO: 567,000 pairs, 2,215 steps an epoch
        epochs = {"captioner": 5, "filter": 6}[task]
        config.model.changes = {"vit": {"image_size": 384}}
        config.augment.crop = 0.5
        config.update(batch_size=256, steps=2215 * epochs)
        config.optimizer.update(
            name="cosine_epoch", lr=1e-5, min_lr=0.0, steps_per_epoch=2215, epochs=epochs
        )
    if task == "captioner":
        config.update(prompt=PROMPT, max_length=40)
    if task == "filter":
        config.update(max_length=35)
    return config.lock()


def model_config(config: ConfigDict, vocab: int) -> nn.BlipConfig:
    """The model of a run; its vocabulary is the tokenizer's."""
    values = changes(config)
    values["med"] = {"vocab_size": vocab, **values.get("med", {})}
    values.setdefault("remat", config.model.remat)
    return nn.preset(config.model.preset, **values)


def changes(config: ConfigDict) -> dict:
    """What differs from the model's preset, as a plain dict."""
    values = config.model.changes
    return values.to_dict() if isinstance(values, ConfigDict) else dict(values)


def objectives(config: ConfigDict, prompt_length: int) -> Objectives:
    """The run's objectives, `prompt_length` tokens of each text given ([DEC] counted)."""
    values = {**config.objectives, "prompt_length": prompt_length}
    values["names"] = tuple(values["names"])
    return Objectives(**values)
