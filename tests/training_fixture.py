"""A tiny training: its dataset, its mixture and its configs, for the tests of runs."""

import json

import jax
import pytest

from blip_jax import nn
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.runtime.config import replace
from blip_jax.train import loop, recipes
from blip_jax.train.optimizer import Constant

STEPS = 6
MODEL = nn.preset("tiny", **{
    "vit": {
        "image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "drop_path": 0.1,
    },  # fmt: skip
    "med": {
        "width": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "max_length": 16, "dropout": 0.1,
    },
    "embed_dim": 8,
    "scan_unroll": 1,
})  # fmt: skip
RECIPES = {
    "pretraining": recipes.pretraining,
    "captioning": recipes.captioning,
    "retrieval": recipes.retrieval,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with 24 images, a mixture of them, and a tokenizer trained on their texts."""
    folder = tmp_path_factory.mktemp("world")
    shapes = ShapesConfig(kind="human", train=24, val=0, test=0)
    dataset = prepare(str(folder), shapes)
    save_mixture(str(folder / "mixture.json"), [Component("human", dataset)])
    texts = [text for i in range(24) for text in make_record(i, "train", shapes)["texts"]]
    train_wordpiece(texts, str(folder / "tokenizer"), 120)
    return folder


@pytest.fixture
def config(world):
    return tiny_run(world)


def tiny_run(world, task="pretraining", **changes):
    config = replace(RECIPES[task](), model=MODEL)
    if task != "captioning":
        itc = {"queue_size": 20, "alpha_warmup_steps": 4}
        changes = {"task.itc": itc, "task.itm": {"group_size": 2}, **changes}
    return replace(
        config,
        **{
            "optimizer.schedule": Constant(1e-3), "mesh.data": 4, "mesh.fsdp": 2,
            "tokenizer": str(world / "tokenizer"), "data.mixture": str(world / "mixture.json"),
            "batch_size": 8, "task.max_length": 12, "steps": STEPS, "log_every": 1,
            "checkpoints.every": 4, **changes,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """(workdir, last state) of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, jax.device_get(loop.train(tiny_run(world), str(workdir)))


def reports(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if not k.startswith("images/s")} for line in found]
