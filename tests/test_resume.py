"""The training loop on a tiny world: stopped and resumed equals never stopped, bit for bit."""

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import time
import types

import jax
import numpy as np
import pytest
import training_fixture
from training_fixture import STEPS, reports

from blip_jax.data.mixture import Component, save_mixture
from blip_jax.data.synthetic.builder import ShapesConfig, prepare
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.signals import Interrupted
from blip_jax.train import loop
from blip_jax.train.logger import Logger
from blip_jax.train.optimizer import Constant

world = training_fixture.world
config = training_fixture.config
whole = training_fixture.whole


def assert_equal_runs(workdir, state, whole):
    wanted_dir, wanted = whole
    found = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
    for (path, got), want in zip(found, jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(got, want, err_msg=jax.tree_util.keystr(path))
    assert [line["step"] for line in reports(workdir)] == list(range(1, STEPS + 1))
    assert reports(workdir) == reports(wanted_dir)


def after(step, act, monkeypatch):
    """Makes the logger call `act` once it has reported on `step`."""
    log = Logger.log

    def watched(self, number, metrics):
        log(self, number, metrics)
        if number == step:
            act()

    monkeypatch.setattr(Logger, "log", watched)


def test_a_run_learns_and_reports_each_step(whole):
    workdir, state = whole
    lines = reports(workdir)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        assert line["loss"] == pytest.approx(line["itc"] + line["itm"] + line["lm"], rel=1e-5)
        assert line["learning_rate"] == pytest.approx(1e-3) and line["skipped"] == 0
    assert lines[-1]["lm"] < lines[0]["lm"]
    assert state.step == STEPS and state.extra["queue"].pointer == STEPS * 8 % 20
    assert (workdir / "tokenizer" / "vocab.txt").is_file()


def test_stopped_by_ctrl_c_and_resumed(config, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        after(3, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted, match="step 3"):
            loop.train(config, str(tmp_path))
    assert len(reports(tmp_path)) == 3
    assert_equal_runs(tmp_path, loop.train(config, str(tmp_path)), whole)


def test_crashed_behind_a_checkpoint_and_resumed(config, whole, tmp_path, monkeypatch):
    def crash():
        raise RuntimeError("the machine went away")

    with monkeypatch.context() as patch:
        after(5, crash, patch)
        with pytest.raises(RuntimeError, match="went away"):
            loop.train(config, str(tmp_path))
    # Step 5 was reported but not saved; it is trained again and reported once.
    assert len(reports(tmp_path)) == 5
    assert_equal_runs(tmp_path, loop.train(config, str(tmp_path)), whole)


def train_until_the_disk_is_full(config, workdir: str) -> None:
    """Ends with status 2 if that is a UserError; for a process of its own, which it limits.

    The kernel refuses to write files past 16 kB, as a full disk would: while step 6 is saved.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # pytest's file of it would be such a file

    def fill() -> None:
        while not os.path.exists(f"{workdir}/checkpoints/4"):  # its save ends in a thread
            time.sleep(0.01)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))

    with pytest.MonkeyPatch.context() as patch:
        after(5, fill, patch)
        try:
            loop.train(config, workdir)
        except UserError as error:
            assert re.search("writing a checkpoint to .*checkpoints failed", str(error))
            sys.exit(2)


def test_a_disk_that_is_full_costs_the_steps_since_the_checkpoint(config, whole, tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=train_until_the_disk_is_full, args=(config, str(tmp_path))
    )
    process.start()
    process.join()
    assert process.exitcode == 2
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))  # as that would fill the disk
    assert len(reports(tmp_path)) == STEPS
    assert_equal_runs(tmp_path, loop.train(config, str(tmp_path)), whole)
    assert os.listdir(tmp_path / "checkpoints") == [str(STEPS)]


def test_a_stopped_run_longer_and_on_another_mesh(config, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        after(3, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted, match="step 3"):
            loop.train(config, str(tmp_path))
    config = replace(config, mesh={"data": 8, "fsdp": 1}, steps=STEPS + 1)
    with pytest.raises(UserError, match="config.steps was 6, now 7; .* --resume=anyway$"):
        loop.train(config, str(tmp_path))
    assert loop.train(config, str(tmp_path), resume="anyway").step == STEPS + 1
    found, wanted = reports(tmp_path), reports(whole[0])
    assert [line["step"] for line in found] == list(range(1, STEPS + 2))
    assert found[:3] == wanted[:3]
    for got, want in zip(found[3:STEPS], wanted[3:], strict=True):
        assert got["lm"] == pytest.approx(want["lm"], rel=1e-3)  # sums are in another order


def test_a_finished_run_is_left_as_it_is(config, whole, capsys):
    before = (whole[0] / "metrics.jsonl").read_text()
    state = loop.train(config, str(whole[0]))
    assert f"{whole[0]} has 6 of 6 steps; nothing to train" in capsys.readouterr().err
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_array_equal(got, want)
    assert (whole[0] / "metrics.jsonl").read_text() == before


def test_steps_before_an_evaluation_that_fails_are_kept(config, world, tmp_path):
    own = {"every": 2, "dataset": str(tmp_path / "nothing"), "split": "train"}
    config = replace(config, **{f"eval.{k}": v for k, v in own.items()})
    evaluator = types.SimpleNamespace(run=fail, check_images=lambda trained_on: None)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="no text in it"):
        patch.setattr(loop, "Evaluator", lambda *unused: evaluator)
        loop.train(config, str(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "2").exists()
    evaluated = []
    evaluator.lacks = lambda step: step == 2
    evaluator.run = lambda params, step: evaluated.append(step) or {"itc/r@1": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Evaluator", lambda *unused: evaluator)
        loop.train(config, str(tmp_path / "run"))
    assert evaluated == [2, 4, 6]


def fail(*unused):
    raise UserError("no text in it")


# User errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.med.mlp_dim": 64}, "config.model.med.mlp_dim was 32, now 64"),
        ({"model.dtype": "bfloat16"}, 'config.model.dtype was "float32", now "bfloat16"'),
        ({"seed": 1}, "config.seed was 0, now 1"),
        (
            {"optimizer.schedule": Constant(2e-3)},
            "now 0.002; .* with --resume=anyway",
        ),
    ],
)
def test_another_run_is_not_resumed(config, whole, changes, message):
    before = (whole[0] / "config.json").read_text()
    with pytest.raises(UserError, match=f"holds another run: .*{message}"):
        loop.train(replace(config, **changes), str(whole[0]))
    assert (whole[0] / "config.json").read_text() == before


def test_settings_that_decide_nothing_may_change(config, whole):
    changes = {"log_every": 3, "checkpoints.keep": 2, "data.prefetch": 2, "model.remat": "dots"}
    assert loop.train(replace(config, **changes), str(whole[0])).step == STEPS


def test_a_run_is_not_resumed_on_another_dataset(world, config, whole, tmp_path):
    dataset = prepare(str(tmp_path), ShapesConfig(kind="human", train=24, val=0, test=0, seed=7))
    save_mixture(str(tmp_path / "mixture.json"), [Component("human", dataset)])
    config = replace(config, **{"data.mixture": str(tmp_path / "mixture.json")})
    with pytest.raises(UserError, match="mixture.human.dataset was .*, now .*; choose another"):
        loop.train(config, str(whole[0]))


def test_a_checkpoint_of_another_model_is_named(config, whole, tmp_path):
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "checkpoints")  # without a fingerprint
    with pytest.raises(UserError, match="is of another model than the config's .* is "):
        loop.train(replace(config, **{"model.med.mlp_dim": 64}), str(tmp_path), resume="anyway")


def test_a_diverged_run_leaves_its_checkpoint(config, whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    before = sorted((workdir / "checkpoints").iterdir())
    changes = {"optimizer.schedule": Constant(1e30), "steps": STEPS + 2, "log_every": 2}
    with pytest.raises(UserError, match="not finite at step 8; training has stopped"):
        loop.train(replace(config, **changes), str(workdir), resume="anyway")
    assert sorted((workdir / "checkpoints").iterdir()) == before
    history = json.loads((workdir / "fingerprint.json").read_text())["history"]
    assert history[-1]["changes"]["config.optimizer.schedule.peak_lr"] == [1e-3, 1e30]
    assert history[-1]["changes"]["config.steps"] == [STEPS, STEPS + 2]


def test_steps_that_are_not_finite_are_skipped_and_counted(config, tmp_path):
    schedule = {"optimizer.schedule": Constant(1e30), "nonfinite.action": "skip"}
    with pytest.raises(UserError, match="the last of 3 skipped steps in a row"):
        loop.train(replace(config, **schedule, **{"nonfinite.max_in_a_row": 3}), str(tmp_path))
    assert [line.get("skipped_steps") for line in reports(tmp_path)] == [None, 1, 2]


def test_a_workdir_has_one_writer(config, whole):
    with (
        folder_lock(whole[0], "train"),
        pytest.raises(UserError, match=r"is in use by process \d+ on .* \(blip-jax train, since"),
    ):
        loop.train(config, str(whole[0]))
