"""The logger: what is in the file, on the terminal and in TensorBoard, and what a resume cuts."""

import io
import itertools
import json
import math
import types

import jax.numpy as jnp
import pytest
from absl import logging

from blip_jax.runtime.errors import UserError
from blip_jax.train import logger, wandb_run
from blip_jax.train.logger import Logger, read_metrics


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock is two seconds after the one before."""
    ticks = itertools.count(0, 2)
    fake = types.SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr(logger, "time", fake)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("clock")
def test_one_line_a_report_with_the_speed_between_reports(tmp_path):
    with Logger(tmp_path / "run", total_steps=100, images_per_step=8) as log:
        log.log(10, {"loss": jnp.float32(0.5), "lr": 1e-3})
        log.log(20, {"loss": 0.25, "lr": 1e-4})
    assert lines(tmp_path / "run") == [
        {"step": 10, "loss": 0.5, "lr": 1e-3},
        {"step": 20, "loss": 0.25, "lr": 1e-4, "images/s": 40.0},  # 10 steps of 8 in 2 s
    ]


@pytest.mark.usefixtures("clock")
def test_an_evaluation_does_not_slow_the_speed_down(tmp_path):
    with Logger(tmp_path, total_steps=100, images_per_step=8) as log:
        log.log(10, {"loss": 1.0})
        log.log(10, {"recall": 0.5})  # two seconds that are not training
        log.log(20, {"loss": 1.0})
    assert [line.get("images/s") for line in lines(tmp_path)] == [None, None, 40.0]


def test_a_resume_cuts_the_lines_of_later_steps(tmp_path):
    with Logger(tmp_path, 40, 8) as log:
        for step in (10, 20, 30):
            log.log(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a crash in the middle of a line
    with Logger(tmp_path, 40, 8, start_step=20) as log:
        assert [line["step"] for line in lines(tmp_path)] == [10, 20]
        log.log(30, {"loss": 0.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (10, 10),
        (20, 20),
        (30, 0),
    ]


@pytest.mark.parametrize(
    "line",
    [b'{"step": Infinity}', b'{"step": 1, "loss": "low"}', b'{"step": 1, "loss": \xff}',
     b'{"step": 1, "loss": 1' + b"0" * 400 + b"}", b"[" * 100_000, b"null"],
)  # fmt: skip
def test_a_line_that_is_no_report_is_named(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": null}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is not a report: '.{4,60}'$"):
        read_metrics(file)


def test_without_a_start_the_first_report_tells_what_to_cut(tmp_path):
    for _ in range(2):
        with Logger(tmp_path, 40, 8) as log:
            log.log(10, {"loss": 1.0})
            log.log(20, {"loss": 1.0})
    with Logger(tmp_path, 40, 8) as log:
        log.log(20, {"loss": 2.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 1.0), (20, 2.0)]


def test_what_is_not_finite_is_null_and_named_once(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: warnings.append(text % args))
    with Logger(tmp_path, 40, 8) as log:
        log.log(1, {"loss": math.nan, "itc": 1.0})
        log.log(2, {"loss": math.inf, "itc": 2.0})
    assert [line["loss"] for line in lines(tmp_path)] == [None, None]
    assert warnings == ["metric loss is nan at step 1; written as null"]
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics["itc"] == [[1, 1.0], [2, 2.0]]
    assert [step for step, _ in metrics["loss"]] == [1, 2]
    assert all(math.isnan(value) for _, value in metrics["loss"])


def test_a_disabled_logger_writes_nothing(tmp_path, capsys):
    with Logger(tmp_path / "run", 40, 8, enabled=False, start_step=0) as log:
        log.log(10, {"loss": 1.0})
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("clock")
def test_off_a_terminal_a_report_is_one_line(tmp_path, capsys):
    with Logger(tmp_path, total_steps=100, images_per_step=8) as log:
        log.log(10, {"loss": 0.123456})
        log.log(20, {"loss": 0.5})
    first, second = capsys.readouterr().err.splitlines()
    assert first == "step 10/100  loss 0.1235"
    assert second == "step 20/100  loss 0.5  images/s 40  left 00:16"  # 80 steps at 5 a second


def test_on_a_terminal_a_bar_shows_the_losses(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(logger.sys, "stderr", terminal)
    with Logger(tmp_path, total_steps=100, images_per_step=8, start_step=50) as log:
        log.log(75, {"loss": 0.5})
    assert "75/100" in terminal.getvalue() and "loss 0.5" in terminal.getvalue()
    assert "\n" not in terminal.getvalue().rstrip("\n")


def test_weights_and_biases_without_its_service(tmp_path, monkeypatch):
    """Offline: a run in the workdir that a resumed training continues, and no connection."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    ids = []
    for step in (10, 20):
        service = wandb_run.WandbRun(str(tmp_path), {"seed": 3, "task": {"max_length": 30}})
        with Logger(tmp_path, 40, 8, start_step=step - 10) as log:
            log.report_to(service)
            log.log(step, {"loss": step / 10, "not_a_number": float("nan")})
        ids.append((tmp_path / wandb_run.ID_FILE).read_text())
    wandb.teardown()  # its own process writes after a run has ended
    assert ids[0] == ids[1] and len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    for file, step in zip(files, (10, 20), strict=True):
        content = file.read_bytes()
        assert b"loss" in content and f"{step / 10:g}".encode() in content
        assert b"max_length" in content and b"not_a_number" not in content


def test_weights_and_biases_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run pip install \"blip-jax\[wandb\]\""):
        wandb_run.WandbRun(str(tmp_path), {})


def test_tensorboard_holds_the_metrics(tmp_path):
    with Logger(tmp_path, 40, 8) as log:
        log.log(10, {"a_metric": 1.0})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"a_metric" in events.read_bytes()


def test_read_metrics_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no metrics at"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"loss": 2.0}\n')
    with pytest.raises(UserError, match="line 2 is not a report"):
        read_metrics(tmp_path / "metrics.jsonl")
