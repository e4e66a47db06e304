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

from blip_jax.checkpoints.training import load_params
from blip_jax.cli.main import VERBS, main
from blip_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

# A run of a few seconds on the tiny dataset; `{folder}` is its folder.
TRAIN = """
from blip_jax.train import config


def get_config():
    run = config.defaults("pretrain")
    run.model.preset = "tiny"
    run.model.changes = dict(
        vit=dict(image_size=16, patch_size=8, width=16, heads=4),
        med=dict(width=16, heads=4, mlp_dim=32), embed_dim=8,
    )
    run.augment.update(crop=1.0, flip="none", randaugment=False)
    run.update(tokenizer="{folder}/tokenizer", mixture="{folder}/mixture.json", max_length=24)
    run.update(batch_size=16, steps=3, log_every=1)
    run.objectives.update(queue=16, negative_group=2)
    return run
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_dataset.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def config(world):
    parts = [{"name": "human", "dataset": world.human}]
    folder = pathlib.Path(world.folder)
    (folder / "mixture.json").write_text(json.dumps({"components": parts}))
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


# How it is called.


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_no_verb_prints_how_to_call_it(capsys, argv):
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: blip-jax VERB --config FILE.py") and err == ""
    for verb, work in VERBS.items():
        assert f"  {verb}" in out and work.__doc__ in out


def test_a_verb_gets_its_config_and_workdir(capsys, config, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(VERBS, "train", lambda *args: calls.append(args))
    monkeypatch.setattr(sys, "argv", ["pytest", "--config.steps=99"])  # of no account
    workdir = str(tmp_path)
    argv = ["train", f"--config={config}", "--config.optimizer.lr=0.5", "--workdir", workdir]
    assert main(argv) == main(["train", "--workdir", "other", "--config", config]) == 0
    (first, where), (second, elsewhere) = calls
    assert (first.steps, first.optimizer.lr, where) == (3, 0.5, workdir)
    assert (second.optimizer.lr, elsewhere) == (3e-4, "other")  # nothing stays from call to call


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["trian"], "unknown verb 'trian'; known: bootstrap, train"),
        (["train", "--workdir=x"], "--config FILE.py is missing"),
        (["train", "--config=CONFIG"], "--workdir DIR is missing"),
        (["train", "--config=none.py", "--workdir=x"], "none.py"),
        (["train", "--config=none.py", "--workdir=x", "--config.steps=1"], "none.py"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.nope=1"],
         "config has no field 'nope'; known: accumulate, augment"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.steps=1", "--config.stpes", "4"],
         "config has no field 'stpes'; did you mean 'steps'?"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.optimizer.rl=1"],
         "config.optimizer has no field 'rl'; did you mean 'lr'?"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.steps.a=1"],
         "config.steps has no field 'a'"),
        (["train", "--config=CONFIG", "--workdir=x", "--config.steps=many"], "many"),
        (["train", "--config=CONFIG", "--workdir=x", "--wrkdir=y"], "wrkdir"),
        (["train", "--config=CONFIG", "--workdir=x", "steps=4"], "unexpected argument 'steps=4'"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line(capsys, config, monkeypatch, argv, named):
    monkeypatch.setitem(VERBS, "train", lambda *args: pytest.fail("it was run"))
    line = fails(capsys, *(arg.replace("CONFIG", config) for arg in argv))
    assert line.startswith(f"blip-jax {argv[0]}: ") and named in line


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("x = 1\n", "no attribute 'get_config'"),
        ("def get_config(:\n", "invalid syntax"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ("def get_config():\n    return {'steps': 1}\n", "gives a dict, not a ConfigDict"),
        ("from blip_jax.train import config\n\n\ndef get_config():\n"
         "    return config.defaults('talk')\n", "unknown task 'talk'; known: pretrain"),
    ],
)  # fmt: skip
def test_a_config_file_that_gives_none_is_one_line(capsys, config, tmp_path, content, named):
    fails(capsys, "train", f"--config={config}")  # what an earlier call has loaded is of no account
    (tmp_path / "broken.py").write_text(content)
    line = fails(capsys, "train", f"--config={tmp_path / 'broken.py'}", "--workdir=x")
    assert line.startswith("blip-jax train: the config file gives no config: ") and named in line


def test_an_error_of_the_work_is_one_line(capsys, config, monkeypatch):
    def work(config, workdir):
        raise UserError("the mixture is upside down: turn it")

    monkeypatch.setitem(VERBS, "train", work)
    line = fails(capsys, "train", f"--config={config}", "--workdir=x")
    assert line == "blip-jax train: the mixture is upside down: turn it\n"


def test_an_error_of_ours_is_not_hidden(config, monkeypatch):
    monkeypatch.setitem(VERBS, "train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", f"--config={config}", "--workdir=x"])


@pytest.mark.parametrize("message", ["", "stopped at step 3; the same command goes on there"])
def test_ctrl_c_is_one_line_and_130(capsys, config, monkeypatch, message):
    def work(config, workdir):
        raise KeyboardInterrupt(*[message] * bool(message))

    monkeypatch.setitem(VERBS, "train", work)
    assert main(["train", f"--config={config}", "--workdir=x"]) == 130
    assert capsys.readouterr().err == f"blip-jax train: {message or 'stopped'}\n"


# Wrong values, as the verbs name them.


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("mixture=/nowhere/mixture.json", "mixture file /nowhere/mixture.json does not exist"),
        ("tokenizer=/nowhere", "tokenizer folder /nowhere does not exist"),
        ("init_from=/nowhere", "no checkpoint in /nowhere"),
        ("model.preset=huge", "unknown model preset 'huge'"),
        ("batch_size=12", "batch_size 12"),
        ("max_length=40", "max_length is 40"),
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
    assert "set aside: 1, empty text" in err
    assert (tmp_path / "capfilt" / "mixture.json").exists()
    argv = [
        "evaluate", f"--config={CONFIGS / 'evaluate.py'}", f"--workdir={tmp_path / 'found'}",
        f"--config.model={model}", f"--config.dataset={world.human}", "--config.rerank=0",
        "--config.decoding.max_length=16", "--config.limit=5",
    ]  # fmt: skip
    assert main(argv) == 0
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    out = capsys.readouterr().out
    assert found["itc r@10"] == 100 and all(name in out for name in found)  # 10 of 10 texts


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
    argv = ["train", f"--config={config}", f"--workdir={workdir}", f"--config.steps={steps}"]
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
    assert line.startswith("blip-jax train: stopped at step ") and line.endswith("goes on there")
    stopped = int(line.split("step ")[1].split(";")[0])
    assert 0 < stopped < steps
    assert os.listdir(workdir / "checkpoints") == [str(stopped)]
    argv[-1] = f"--config.steps={stopped + 2}"
    assert main(argv) == 0
    logged = [json.loads(row)["step"] for row in open(workdir / "metrics.jsonl")]
    assert logged == list(range(1, stopped + 3))  # each step once
    assert load_params(str(workdir))[1].model_type == "pretrain"
