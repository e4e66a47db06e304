"""The command line: what a person can mend is one line on stderr, and Ctrl-C loses nothing."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tiny_dataset

from blip_jax.checkpoints.workdir import load_state_items
from blip_jax.cli import train
from blip_jax.cli.main import main
from blip_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

# A run of a few seconds on the tiny dataset; `{folder}` is that of the dataset.
TRAIN = """
from blip_jax import nn
from blip_jax.runtime.config import replace
from blip_jax.train.config import TrainConfig


def get_config():
    model = nn.preset(
        "tiny",
        vit=dict(image_size=16, patch_size=8, width=16, heads=4),
        med=dict(width=16, heads=4, mlp_dim=32), embed_dim=8,
    )
    return replace(
        TrainConfig(model=model), tokenizer="{folder}/tokenizer", batch_size=16, steps=3,
        log_every=1,
        data=dict(
            mixture="{folder}/mixture.json",
            augment=dict(min_crop_area=1.0, flip="none", randaugment=False),
        ),
        task=dict(max_length=24, itc=dict(queue_size=16), itm=dict(group_size=2)),
    )
"""


@pytest.fixture(scope="module")
def config(world):
    components = [{"name": "human", "dataset": world.human}]
    folder = pathlib.Path(world.folder)
    (folder / "mixture.json").write_text(json.dumps({"components": components}))
    (folder / "train.py").write_text(TRAIN.replace("{folder}", world.folder))
    return str(folder / "train.py")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a test writes by mistake does not land in the repository."""
    monkeypatch.chdir(tmp_path)


def fails(capsys, *argv):
    """The one line that a wrong call ends with."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


# How it is called; test_config_verb.py has what all verbs with a config have in common.


def test_a_verb_gets_its_config_and_workdir(config, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        train, "work", lambda config, workdir, resume: calls.append((config, workdir))
    )
    monkeypatch.setattr(sys, "argv", ["pytest", "--config.steps=99"])  # of no account
    workdir = str(tmp_path)
    argv = ["train", f"--config={config}", "--config.optimizer.schedule.peak_lr=0.5"]
    assert main([*argv, "--workdir", workdir]) == 0
    assert main(["train", "--workdir", "other", "--config", config]) == 0
    (first, where), (second, elsewhere) = calls
    assert (first.steps, first.optimizer.schedule.peak_lr, where) == (3, 0.5, workdir)
    # Nothing stays from call to call.
    assert (second.optimizer.schedule.peak_lr, elsewhere) == (3e-4, "other")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train", "--workdir=x"], "--config FILE.py is missing; give a file, or a name of assem"),
        (["train", "--config=CONFIG"], "--workdir DIR is missing"),
        (["train", "--config=pretrain", "--workdir=x"],
         "config.data.mixture is empty; give it with --config.data.mixture=MIXTURE.json"),
        (["train", "--config=pretrain:vit_m"], "has no variant 'vit_m'; did you mean 'vit_"),
        (["train", "--config=pretrain:vit_l,v5p-512"], "v5p-512 has 256 chips, among which"),
        (["train", "--config=evaluate"], "returns an EvaluateConfig, expected a TrainC"),
        (["train", "--config=none.py", "--workdir=x"], "config file none.py does not exist"),
        (["train", "--config=none.py", "--workdir=x", "--config.steps=1"], "none.py"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.nope=1"],
         "config has no field 'nope'; known: task, model, tokenizer"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.steps=1", "--config.stpes", "4"],
         "config has no field 'stpes'; did you mean 'steps'?"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.learning_rate=1"],
         "config has no field 'learning_rate'; did you mean 'config.optimizer.schedule.peak_lr'?"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.model=large"],
         "config.model is a group of fields; give them one by one"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.steps.a=1"],
         "config.steps has no fields: 'a' cannot be set"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.steps=many"],
         "config.steps is 'many'; expected a whole number"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.model.remat=ful"],
         "config.model.remat is 'ful'; choose one of none, dots, full, auto"),
        (["train", "--config=CONFIG", "--workdir=x", "--wrkdir=y"], "did you mean --workdir?"),
        (["train", "--config=CONFIG", "--workdir=x", "steps=4"], "unexpected argument 'steps=4'"),
        (["bootstrap", "--config=shapes", "--config.arms=none,bth"],
         "unknown arm 'bth'; did you mean 'both'?"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line(capsys, config, monkeypatch, argv, named):
    monkeypatch.setattr(train, "work", lambda *args, **options: pytest.fail("it was run"))
    line = fails(capsys, *(arg.replace("CONFIG", config) for arg in argv))
    assert line.startswith(f"blip-jax {argv[0]}: ") and named in line


def test_an_error_of_the_work_is_one_line(capsys, config, monkeypatch):
    def work(config, workdir, resume):
        raise UserError("the mixture is upside down: turn it")

    monkeypatch.setattr(train, "work", work)
    line = fails(capsys, "train", f"--config={config}", "--workdir=x")
    assert line == "blip-jax train: the mixture is upside down: turn it\n"


def test_an_error_of_ours_is_not_hidden(config, monkeypatch):
    monkeypatch.setattr(train, "work", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", f"--config={config}", "--workdir=x"])


@pytest.mark.parametrize("message", ["", "stopped at step 3; rerun the same command to resume"])
def test_ctrl_c_is_one_line_and_130(capsys, config, monkeypatch, message):
    def work(config, workdir, resume):
        raise KeyboardInterrupt(*[message] * bool(message))

    monkeypatch.setattr(train, "work", work)
    assert main(["train", f"--config={config}", "--workdir=x"]) == 130
    assert capsys.readouterr().err == f"blip-jax train: {message or 'stopped'}\n"


# Wrong values, as the verbs name them.


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.mixture=/nowhere/mixture.json", "mixture file /nowhere/mixture.json does not exist"),
        ("tokenizer=/nowhere", "tokenizer folder /nowhere does not exist"),
        ("init.run=/nowhere", "/nowhere does not exist"),
        ("batch_size=12", "batch_size 12"),
        ("task.max_length=40", "task.max_length is 40"),
        ("mesh.tensor=3", "3"),
    ],
)
def test_what_training_cannot_use_is_named(capsys, config, tmp_path, override, named):
    argv = ["train", f"--config={config}", f"--workdir={tmp_path}", f"--config.{override}"]
    assert named in fails(capsys, *argv)


@pytest.mark.parametrize(
    ("verb", "fields", "named"),
    [
        ("capfilt", {}, "config.dataset is empty"),
        ("capfilt", {"dataset": "WEB", "captioners": "x"}, "config.filters is empty"),
        ("capfilt", {"dataset": "WEB", "captioners": "/no", "filters": "/"}, "/no does not exist"),
        ("capfilt", {"decoding.top_p": 2.0, "dataset": "WEB", "filters": "/no"},
         "config.decoding: top_p is 2.0"),
        ("evaluate", {"dataset": "WEB"}, "config.model is empty"),
        ("evaluate", {"dataset": "WEB", "model": "/no"}, "/no does not exist"),
    ],
)  # fmt: skip
def test_what_a_model_needs_is_named(capsys, world, tmp_path, verb, fields, named):
    values = [
        f"--config.{name}={value}".replace("WEB", world.web) for name, value in fields.items()
    ]
    argv = [verb, f"--config={CONFIGS / verb}.py", f"--workdir={tmp_path}", *values]
    assert named in fails(capsys, *argv)


# The verbs that use models, end to end.


def test_capfilt_and_evaluate(capsys, world, tmp_path):
    pytest.importorskip("pycocoevalcap")
    model = tiny_dataset.save(
        tiny_dataset.trained(world, 0, tiny_dataset.PROMPT), str(tmp_path / "model")
    )
    argv = [
        "capfilt", f"--config={CONFIGS / 'capfilt.py'}", f"--workdir={tmp_path / 'capfilt'}",
        f"--config.dataset={world.web}", f"--config.captioners={model}",
        f"--config.filters={model}",
        f"--config.human_dataset={world.human}", "--config.batch_size=1", "--config.threshold=0",
        "--config.decoding.max_length=16",
    ]  # fmt: skip
    assert main(argv) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["web"][:3] == ["30", "28", "2"] and rows["synthetic"][:3] == ["29", "29", "0"]
    assert "skipped 1: empty text" in err
    assert (tmp_path / "capfilt" / "mixture.json").exists()
    argv = [
        "evaluate", f"--config={CONFIGS / 'evaluate.py'}", f"--workdir={tmp_path / 'found'}",
        f"--config.model={model}", f"--config.dataset={world.human}", "--config.task.rerank_k=0",
        "--config.task.decoding.max_length=16", "--config.limit=5",
    ]  # fmt: skip
    assert main(argv) == 0
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    out = capsys.readouterr().out
    assert found["itc/r@10"] == {"value": 100, "n": 5, "standard_error": 0}  # 10 of 10 texts
    assert "± standard error" in out and all(name in out for name in found)


# Signals, in a process of its own.


def command(*argv):
    return subprocess.Popen(
        [sys.executable, "-m", "blip_jax", *argv], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path, process):
    """Until the run has written `path`, for ten minutes at most: it compiles first."""
    for _ in range(6000):
        if path.exists() and path.stat().st_size:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError(f"{path} was not written")


@pytest.mark.slow
def test_ctrl_c_in_training_saves_and_the_same_command_goes_on(config, tmp_path):
    workdir, steps = tmp_path / "run", 4000
    # Without the contrast and the matching a step compiles in a fifth of the time.
    losses = "itc=dict(queue_size=16), itm=dict(group_size=2)"
    text = pathlib.Path(config).read_text()
    assert losses in text
    file = tmp_path / "lm.py"
    file.write_text(text.replace(losses, "itc=None, itm=None"))
    argv = ["train", f"--config={file}", f"--workdir={workdir}", f"--config.steps={steps}"]
    process = command(*argv)
    try:
        wait_for(workdir / "metrics.jsonl", process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("blip-jax train: stopped at step ") and line.endswith(
        "rerun the same command to resume"
    )
    stopped = int(line.split("step ")[1].split(";")[0])
    assert 0 < stopped < steps
    assert os.listdir(workdir / "checkpoints") == [str(stopped)]
    argv[-1] = f"--config.steps={stopped + 2}"
    assert main([*argv, "--resume=anyway"]) == 0
    logged = [json.loads(row)["step"] for row in open(workdir / "metrics.jsonl")]
    assert logged == list(range(1, stopped + 3))  # each step once
    assert load_state_items(str(workdir), ("params",))[1].model_type == "pretrain"
