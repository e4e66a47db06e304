"""Several processes train as one does: meshes, signals, kills, and restarts on other meshes."""

import importlib.util
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import processes
import pytest
import tiny_dataset
from processes import STEPS

from blip_jax.capfilt import storage
from blip_jax.checkpoints.workdir import checkpoint_folder
from blip_jax.cli.main import main
from blip_jax.runtime.config import replace
from blip_jax.train import loop

MESHES = {"fsdp and tensor": ["--config.mesh.fsdp=2", "--config.mesh.tensor=2"]}


def start_of(folder) -> str:
    """The flag of a run that starts from the pre-training in a folder."""
    return f"--config.init.run={folder}/data"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return processes.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def together(world, tmp_path_factory):
    """Folder of the runs of 2 processes x 4 devices that nothing stopped."""
    folder = tmp_path_factory.mktemp("together")
    runs = [
        [f"--config={world}/pretraining.py", f"--workdir={folder}/data"],
        *(
            [f"--config={world}/pretraining.py", f"--workdir={folder}/{name}", *flags]
            for name, flags in MESHES.items()
        ),
        [f"--config={world}/captioning.py", f"--workdir={folder}/captioner"],
        [f"--config={world}/retrieval.py", f"--workdir={folder}/retrieval", start_of(folder)],
    ]
    statuses = processes.end(processes.start(folder, runs))
    assert statuses == [0, 0], processes.printed(folder)
    return folder


def alone(world, workdir, devices, recipe="pretraining", **changes):
    """The same training on some devices of one process."""
    spec = importlib.util.spec_from_file_location(recipe, world / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = replace(module.get_config(), **changes)
    loop.train(config, str(workdir), jax.devices()[:devices])
    return processes.reports(workdir)


def assert_close(found, wanted):
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    for got, want in zip(found, wanted, strict=True):
        assert got.keys() == want.keys()
        for name in ("loss", "itc", "itm", "lm"):
            assert got[name] == pytest.approx(want[name], rel=1e-5), (got["step"], name)


# The same numbers, however many processes and devices.


@pytest.mark.slow
@pytest.mark.parametrize("devices", [8, 1])
def test_two_processes_train_as_one(together, world, tmp_path, devices):
    wanted = alone(world, tmp_path, devices)
    assert [line["step"] for line in wanted] == list(range(1, STEPS + 1))
    assert_close(processes.reports(together / "data"), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_other_meshes_train_as_plain_data_parallel(together, mesh):
    assert_close(processes.reports(together / mesh), processes.reports(together / "data"))


@pytest.mark.slow
def test_a_run_from_another_run_evaluates_as_one(together, world, tmp_path):
    wanted = alone(world, tmp_path, 8, "retrieval", init={"run": str(together / "data")})
    found = processes.reports(together / "retrieval")
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    evaluated = [line for line in found if "eval/itm/tr@1" in line]
    assert [line["step"] for line in evaluated] == [10, 20]
    for got, want in zip(found, wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5), got["step"]
    kept = [(path / "trained_on.json").read_text() for path in (together / "retrieval", tmp_path)]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_the_first_process_alone_prints_and_writes(together):
    first, second = ((together / f"printed-{number}").read_text() for number in range(2))
    assert first.count(f"step {STEPS}/{STEPS}") == 5
    assert not re.search(r"^step \d+/", second, re.MULTILINE)
    assert len(list((together / "data" / "tensorboard").iterdir())) == 1
    assert (together / "data" / "tokenizer" / "vocab.txt").is_file()


@pytest.mark.slow
def test_a_checkpoint_goes_on_elsewhere(together, world, tmp_path):
    source, target = (checkpoint_folder(str(path)) for path in (together / "data", tmp_path))
    assert sorted(path.name for path in source.iterdir()) == ["10", "20"]  # the last, every 10th
    shutil.copytree(source / "10", target / "10")
    shutil.copy(together / "data" / "fingerprint.json", tmp_path)
    found = alone(world, tmp_path, devices=4)
    assert_close(found, processes.reports(together / "data")[10:])


# Signals and kills.


@pytest.mark.slow
def test_stopped_and_killed_and_whole_in_the_end(together, world, tmp_path):
    """SIGTERM to one process; then, going on by SLURM's variables, SIGKILL at a random moment."""
    workdir = tmp_path / "run"
    run = [[f"--config={world}/captioning.py", f"--workdir={workdir}"]]
    steps = [tmp_path / name for name in ("terminated", "killed", "finished")]

    running = processes.start(steps[0], run, pause=0.4)
    processes.wait_for_step(workdir, 3, running)
    running[1].send_signal(signal.SIGTERM)
    assert processes.end(running) == [0, 0], processes.printed(steps[0])
    stopped = len(processes.reports(workdir))
    assert 3 <= stopped < STEPS
    text = f"blip-jax train: stopped at step {stopped}; rerun the same command to resume"
    assert processes.printed(steps[0]).count(text) == 2
    assert str(stopped) in os.listdir(workdir / "checkpoints")

    running = processes.start(steps[1], run, pause=0.2, slurm=True)
    processes.wait_for_step(workdir, random.randint(stopped + 1, STEPS - 1), running)
    random.choice(running).kill()
    processes.kill(running)  # JAX would have ended the other one a minute later

    running = processes.start(steps[2], run)
    assert processes.end(running) == [0, 0], processes.printed(steps[2])
    assert processes.reports(workdir) == processes.reports(together / "captioner")
    processes.assert_same_state(workdir, together / "captioner")
    processes.assert_each_once(processes.seen(*steps))


# What needs no training: shared out among the processes.


@pytest.mark.slow
def test_two_processes_clean_and_measure_as_one(tmp_path):
    """30 images in 4 shards, and 10 with 20 texts, of which neither process has half a batch."""
    pytest.importorskip("pycocoevalcap")
    world = tiny_dataset.build(tmp_path / "world")
    model = tiny_dataset.save(
        tiny_dataset.trained(world, 2, tiny_dataset.PROMPT), str(tmp_path / "model")
    )
    configs = pathlib.Path(__file__).parents[1] / "configs"

    def verbs(folder):
        clean = [
            f"--config.dataset={world.web}", f"--config.captioners={model}",
            f"--config.filters={model}", "--config.batch_size=1", "--config.shard_rows=9",
            f"--config.human_dataset={world.human}", "--config.decoding.max_length=16",
        ]  # fmt: skip
        measure = [
            f"--config.dataset={world.human}", f"--config.model={model}", "--config.limit=7",
            "--config.task.rerank_k=3", "--config.task.decoding.max_length=16",
        ]  # fmt: skip
        both = {"capfilt": clean, "evaluate": measure}
        return [
            [verb, f"--config={configs / verb}.py", f"--workdir={folder / verb}", *flags]
            for verb, flags in both.items()
        ]

    running = processes.start(tmp_path / "two", verbs(tmp_path / "two"), devices=2)
    assert processes.end(running) == [0, 0], processes.printed(tmp_path / "two")
    for argv in verbs(tmp_path / "one"):
        assert main(argv) == 0
    mixtures = [
        (tmp_path / name / "capfilt" / "mixture.json").read_text() for name in ("two", "one")
    ]
    assert mixtures[0] == mixtures[1]
    found, wanted = (
        storage.read(str(tmp_path / name / "capfilt" / "scores"), "train")
        for name in ("two", "one")
    )
    assert found.text.equals(wanted.text) and found.key.equals(wanted.key)
    np.testing.assert_allclose(found.p_match, wanted.p_match, atol=1e-5)
    metrics = [
        json.loads((tmp_path / name / "evaluate" / "metrics.json").read_text())
        for name in ("two", "one")
    ]
    assert list(metrics[0]) == list(metrics[1]) and "itm/tr@1" in metrics[0]
    for name, entry in metrics[0].items():
        assert entry == pytest.approx(metrics[1][name]), name
    second = (tmp_path / "two" / "printed-1").read_text()
    assert "metric" not in second and "kept" not in second


# User errors.


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--processes=2", "--process=0"], "--coordinator is missing"),
        (["--coordinator=here:1", "--processes=2"], "--process is missing"),
        (["--coordinator=here:1", "--process=0"], "--processes is missing"),
        (["--coordinator=here", "--processes=2", "--process=0"], "give HOST:PORT"),
        (["--coordinator=here:1", "--processes=2", "--process=2"], "give 0 to 1"),
        (["--coordinator=here:1", "--processes=-2", "--process=0"], "--processes is -2"),
        (["--coordinator=here:1", "--processes=two", "--process=0"], "processes"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "capfilt", "evaluate"])
def test_flags_that_start_nothing_are_one_line(capsys, world, verb, flags, named):
    config = {
        "train": [f"--config={world}/pretraining.py"],
        "capfilt": ["--config=capfilt", "--config.dataset=x", "--config.filters=y"],
        "evaluate": ["--config=evaluate", "--config.dataset=x", "--config.model=y"],
    }[verb]
    assert main([verb, *config, "--workdir=x", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"blip-jax {verb}: ") and named in err and err.count("\n") == 1


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_do_not_come_are_one_line(process):
    where = f"localhost:{processes.free_port()}"
    call = (
        f"from blip_jax.runtime.processes import initialize; initialize({where!r}, 2, {process}, 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], env=processes.environment(1), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"{where}, process {process} of 2: not all processes have started" in done.stderr
    assert len(done.stderr.splitlines()) == 1
