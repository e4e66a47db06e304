"""The README's examples, run as they are written on models with random weights."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import malformed_files
import numpy as np
import processes
import pytest
import tiny
from PIL import Image

from blip_jax import checkpoints
from blip_jax.data.tokenizer import train_wordpiece

ROOT = pathlib.Path(__file__).parents[1]
VISION = {"image_size": 32, "patch_size": 8}
WORDS = "a photo of the colour is it sunny what doing yes sleeping dog asleep beach at noon picture"
# What a training on two cores is made smaller by; the rest of its line stays as it is written.
SMALL = """--config.model.preset=tiny --config.tokenizer=words --config.batch_size=8
    --config.steps=2 --config.objectives.negative_group=8 --config.objectives.queue=16
    --config.optimizer.steps_per_epoch=1"""


def chapter(title: str, language: str) -> str:
    """The first code of that language in a chapter of the README."""
    text = (ROOT / "README.md").read_text("utf-8").split(f"## {title}\n")[1]
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


def write_model(model_type: str, folder: pathlib.Path, tokenizer) -> None:
    """A tiny model with random weights, as a Hugging Face folder."""
    config = tiny.config(vit=VISION, med={"vocab_size": tokenizer.ids.vocab_size, "max_length": 40})
    if model_type == "vqa":
        config = dataclasses.replace(config, med=dataclasses.replace(config.med, sharing="none"))
    checkpoint = checkpoints.Checkpoint(
        model_type, config, tiny.init(config, model_type=model_type), tokenizer=tokenizer
    )
    checkpoints.write(checkpoint, str(folder), "hf")


def test_in_python(tmp_path, monkeypatch, capsys):
    tokenizer = train_wordpiece([WORDS], str(tmp_path / "words"), 120)
    rng = np.random.default_rng(0)
    for name in ("dog.jpg", "beach.png"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    for model_type in ("captioner", "retrieval", "vqa"):
        write_model(model_type, tmp_path / f"blip-{model_type}", tokenizer)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(chapter("In Python", "python"), "README.md", "exec"), names)  # noqa: S102 - ours
    assert len(capsys.readouterr().out.splitlines()) >= 8
    assert names["similarity"].shape == (2, 3)
    assert np.all((names["found"].probability > 0) & (names["found"].probability < 1))
    assert names["config"].vit.image_size == 32 and names["judge"].image_size == 64


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """A folder in which the lines of "Clean and re-caption your own data" were run."""
    folder = tmp_path_factory.mktemp("cleaned")
    tokenizer = train_wordpiece([WORDS], str(folder / "words"), 120)
    malformed_files.write_shards(folder / "shards", 2, 60)
    for model_type, name in (
        ("captioner", "image-captioning-base"),
        ("retrieval", "itm-base-coco"),
    ):
        write_model(model_type, folder / "Salesforce" / f"blip-{name}", tokenizer)
    (folder / "configs").symlink_to(ROOT / "configs")
    lines = chapter("Clean and re-caption your own data", "bash").strip()
    assert lines.splitlines()[-1].startswith("blip-jax train ")
    paths = [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    environment = processes.environment(1) | {"PATH": os.pathsep.join(paths)}
    done = subprocess.run(
        ["bash", "-euxc", f"{lines} {' '.join(SMALL.split())}"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_from_tars_to_a_training(cleaned):
    manifest = json.loads((cleaned / "data/mine/manifest.json").read_text())
    assert manifest["inputs"] == manifest["rows"] + sum(manifest["skipped"].values())
    assert manifest["rows"] > 100 and manifest["skipped"]
    found = json.loads((cleaned / "runs/mine/statistics.json").read_text())
    assert found["images"]["count"] == manifest["rows"]
    assert len(found["commands"]) == 3  # those that led to it, for the card
    steps = [json.loads(x) for x in (cleaned / "runs/again/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(step["loss"]) for step in steps if "loss" in step)
    assert (cleaned / "runs/again/checkpoints/2").is_dir()
