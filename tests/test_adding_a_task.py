"""The task and the config that blip_jax/tasks/README.md shows, run as they are written there.

They are files outside the package, and all verbs are run by the README's commands.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import sys

import documented
import numpy as np
import pytest
import tiny
from PIL import Image

from blip_jax import models, nn
from blip_jax.checkpoints import Checkpoint, write
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.runtime.errors import UserError

README, CHAPTER = "blip_jax/tasks/README.md", "Adding a task"
WORDS = ["a red picture", "a blue picture"]
# What makes the run small; a word of the network needs the vocabulary of its tokenizer.
SMALL = """--config.model.vit.image_size=16 --config.model.vit.patch_size=8
    --config.model.vit.width=16 --config.model.vit.depth=2 --config.model.vit.heads=4
    --config.model.med.width=16 --config.model.med.depth=2 --config.model.med.heads=4
    --config.model.med.mlp_dim=32 --config.model.med.max_length=12 --config.model.embed_dim=8
    --config.tokenizer=words --config.task.max_length=12 --config.batch_size=8 --config.steps=4
    --config.optimizer.schedule.warmup_steps=1 --config.checkpoints.every=2 --config.log_every=1
    --config.data.augment.randaugment=False --config.mesh.data=4 --config.mesh.fsdp=2""".split()


def commands():
    """The README's commands by their verb, the `echo` too; the second of a verb as "prepare 2"."""
    lines = documented.code_of(README, CHAPTER, "sh")[0].replace("\\\n", " ").strip().splitlines()
    words = [shlex.split(line) for line in lines]
    found = {}
    for command in words:
        verb = command[1] if command[0] == "blip-jax" else command[0]
        found[f"{verb} 2" if verb in found else verb] = command
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the README's files, a table of images, and a pre-trained model."""
    folder = tmp_path_factory.mktemp("mine")
    code = documented.code_of(README, CHAPTER, "python")
    for name, text in zip(("classification.py", "classify.py"), code, strict=True):
        (folder / name).write_text(text, "utf-8")
    tables, rng = (["image,text,label"], ["image,text,label"]), np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 100, (20, 20, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")
        label = ("benign", "hateful", "unknown")[2 if number % 12 == 7 else number // 2 % 2]
        tables[number // 12].append(f"{number}.png,{WORDS[number // 2 % 2]},{label}")
    for name, rows in zip(("memes.csv", "memes_test.csv"), tables, strict=True):
        (folder / name).write_text("\n".join(rows) + "\n")
    tokenizer = train_wordpiece(WORDS, str(folder / "words"), 60)
    med = {"vocab_size": tokenizer.ids.vocab_size}
    config = tiny.config(vit={"image_size": 32}, med=med)
    (folder / "runs").mkdir()
    path = str(folder / "runs" / "pretrain.safetensors")
    write(Checkpoint("pretrain", config, tiny.init(config), tokenizer=tokenizer), path, "original")
    return folder


def run(words, *more):
    """Runs a command in this process."""
    importlib.import_module(f"blip_jax.cli.{words[1]}").run([*words[2:], *more])


@pytest.fixture
def in_folder(folder, monkeypatch):
    """The working directory is the folder; the package is left as it was afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "classification", raising=False)
    yield folder
    sys.modules.pop("classification", None)
    nn.MODEL_TYPES.pop("classifier", None)


def test_it_trains_resumes_and_evaluates(in_folder, capsys):
    line = commands()
    for name in ("prepare", "prepare 2"):
        run(line[name], "--config.workers=1")
    (in_folder / line["echo"][-1]).write_text(line["echo"][1])
    train = [x.replace("runs/pretrain", "runs/pretrain.safetensors") for x in line["train"]]
    evaluated = ["--config.eval.every=4", "--config.eval.dataset=data/memes_test",
                 "--config.eval.split=train"]  # fmt: skip
    run(train, *SMALL, *evaluated)
    run(train, *SMALL, *evaluated)  # the same command again
    said = capsys.readouterr().err
    assert "has 4 of 4 steps; nothing to train" in said
    assert "missing field" in said  # the label that is none

    lines = (in_folder / "runs/classifier/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(x) for x in lines]
    assert all(np.isfinite(x["loss"]) for x in steps if "loss" in x)
    accuracy = next(x["eval/accuracy"] for x in steps if "eval/accuracy" in x)
    run(line["evaluate"])
    found = json.loads((in_folder / "runs/classifier_eval/metrics.json").read_text())["accuracy"]
    assert found["n"] == 11 and found["value"] == pytest.approx(accuracy)

    model = models.load("runs/classifier")
    assert model.model_type == "classifier" and model.can("classify")
    assert set(model.params) == {"vit", "med", "class_head"}
    nn.MODEL_TYPES.pop("classifier")
    with pytest.raises(UserError, match="type 'classifier'; import the file that registers it"):
        models.load("runs/classifier")


def test_it_starts_from_the_pretraining_and_a_fresh_head(in_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(in_folder))
    classification = importlib.import_module("classification")
    config = tiny.config()
    task = classification.ClassificationConfig(max_length=tiny.LENGTH).make(config, None)
    fresh = nn.param_shapes(config, "classifier")
    pretrained = tiny.init(config)
    params = task.adapt_params(pretrained, config, fresh)
    assert params["class_head"] == fresh["class_head"]  # shapes, which are made at random
    np.testing.assert_array_equal(params["vit"]["cls"], pretrained["vit"]["cls"])


def test_a_name_of_the_package_is_refused():
    with pytest.raises(UserError, match="model type 'vqa' is blip_jax's own; choose another name"):
        nn.register_model_type("vqa", nn.MODEL_TYPES["features"])


@pytest.mark.slow
@pytest.mark.tpu_compile
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="no TPU compiler")
def test_it_compiles_for_a_tpu(folder):
    """In a process of its own, as the environment must be set before jax is imported."""
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    env["PYTHONPATH"] = os.pathsep.join([str(documented.ROOT), env.get("PYTHONPATH", "")])
    line = [sys.executable, "-m", *commands()["compile"]]
    line[2] = "blip_jax"
    done = subprocess.run([*line, *SMALL], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "yes" in done.stdout


def test_a_config_imports_files_of_its_folder_alone(tmp_path):
    from blip_jax.cli import config_files

    (tmp_path / "beside.py").write_text("VALUE = 3\n")
    (tmp_path / "mine.py").write_text(
        "import beside\n\n\ndef get_config():\n    return beside.VALUE\n"
    )
    before = list(sys.path)
    assert config_files.load(str(pathlib.Path(tmp_path) / "mine.py"))[0] == 3
    assert sys.path == before
    sys.modules.pop("beside")
