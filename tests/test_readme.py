"""The examples of the documentation, run as they are written on models with random weights."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import documented
import malformed_files
import numpy as np
import processes
import pytest
import tiny
import tiny_dataset
import video_files
from PIL import Image

from blip_jax import checkpoints, models
from blip_jax.data.tokenizer import train_wordpiece

ROOT = pathlib.Path(__file__).parents[1]
VISION = {"image_size": 32, "patch_size": 8}
WORDS = "a photo of the colour is it sunny what doing yes sleeping dog asleep beach at noon picture"
# What makes training small enough for two cores; the rest of its line stays as it is written.
SMALL = """--config.model.vit.image_size=32 --config.model.vit.patch_size=16
    --config.model.vit.width=64 --config.model.vit.depth=2 --config.model.vit.heads=4
    --config.model.med.width=64 --config.model.med.depth=2 --config.model.med.heads=4
    --config.model.med.mlp_dim=256 --config.model.med.max_length=32 --config.model.embed_dim=64
    --config.tokenizer=words --config.batch_size=8 --config.steps=2
    --config.task.itm.group_size=8 --config.task.itc.queue_size=16
    --config.optimizer.schedule.steps_per_epoch=1 --config.optimizer.schedule.warmup_steps=1"""


def write_model(model_type: str, folder: pathlib.Path, tokenizer) -> None:
    """A tiny model with random weights, as a Hugging Face folder."""
    config = tiny.config(vit=VISION, med={"vocab_size": tokenizer.ids.vocab_size, "max_length": 40})
    if model_type == "vqa":
        config = dataclasses.replace(config, med=dataclasses.replace(config.med, sharing="none"))
    checkpoint = checkpoints.Checkpoint(
        model_type, config, tiny.init(config, model_type=model_type), tokenizer=tokenizer
    )
    checkpoints.write(checkpoint, str(folder), "hf")


MODELS = {"captioner": "image-captioning-base", "retrieval": "itm-base-coco", "vqa": "vqa-base"}


@pytest.fixture(scope="module")
def salesforce(tmp_path_factory):
    """A folder with images and models of the names that the examples have."""
    folder = tmp_path_factory.mktemp("examples")
    tokenizer = train_wordpiece([WORDS], str(folder / "words"), 120)
    rng = np.random.default_rng(0)
    for name in ("dog.jpg", "beach.png"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(folder / name)
    for model_type, name in MODELS.items():
        write_model(model_type, folder / "Salesforce" / f"blip-{name}", tokenizer)
    med = {"vocab_size": tokenizer.ids.vocab_size, "max_length": 40}
    config = tiny.config(vit=VISION, med=med)
    params = tiny.init(config, model_type="dialog")
    dialog = models.Model(params, config, tokenizer, model_type="dialog", max_length=40)
    tiny_dataset.save(dialog, str(folder / "runs" / "visdial"))
    return folder


def run_python(file: str, title: str, number: int = 0, **names) -> dict:
    """Runs a chapter's code, with the variables of code before it, and returns its variables."""
    names = {"__name__": "example"} | names
    code = documented.code_of(file, title, "python")[number]
    exec(compile(code, file, "exec"), names)  # noqa: S102 - ours
    return names


def test_python_of_the_readme(salesforce, monkeypatch, capsys):
    monkeypatch.chdir(salesforce)
    names = run_python("README.md", "In Python")
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert names["similarity"].shape == (2, 2)


def test_python_of_models(salesforce, monkeypatch, capsys):
    monkeypatch.chdir(salesforce)
    names = run_python("blip_jax/models/README.md", "In Python")
    assert len(capsys.readouterr().out.splitlines()) >= 12
    assert str(names["ranked"]) in ("yes", "brown")
    assert names["similarity"].shape == (2, 3)
    assert np.all((names["match"].probability > 0) & (names["match"].probability < 1))
    assert names["config"].vit.image_size == 32 and names["retrieval"].image_size == 64
    pytest.importorskip("av")
    for clip in ("kitchen.mp4", "street.mp4"):
        (salesforce / clip).write_bytes(video_files.make(6))
    run_python("blip_jax/models/README.md", "In Python", 1, **names)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_python_of_configs():
    config = run_python("configs/README.md", "A file of your own")["get_config"]()
    assert config.batch_size == 1024 and config.task.lm is None
    assert config.task.itm.group_size == 64 and not config.data.augment.randaugment


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    """A folder in which the lines of "Clean and re-caption your own data" were run."""
    folder = tmp_path_factory.mktemp("cleaned")
    tokenizer = train_wordpiece([WORDS], str(folder / "words"), 120)
    malformed_files.write_shards(folder / "shards", 2, 60)
    for model_type in ("captioner", "retrieval"):
        write_model(model_type, folder / "Salesforce" / f"blip-{MODELS[model_type]}", tokenizer)
    (folder / "configs").symlink_to(ROOT / "configs")
    file, title = "blip_jax/capfilt/README.md", "Clean and re-caption your own data"
    lines = documented.code_of(file, title, "bash")[0].strip()
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
    assert manifest["records_read"] == manifest["rows"] + sum(manifest["skipped"].values())
    assert manifest["rows"] > 100 and manifest["skipped"]
    found = json.loads((cleaned / "runs/mine/statistics.json").read_text())
    assert found["images"]["count"] == manifest["rows"]
    assert len(found["commands"]) == 3  # those that led to it, for the card
    steps = [json.loads(x) for x in (cleaned / "runs/again/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(step["loss"]) for step in steps if "loss" in step)
    assert (cleaned / "runs/again/checkpoints/2").is_dir()
