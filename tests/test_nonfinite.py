"""Steps, reports and checkpoints where a number is not finite."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blip_jax.checkpoints.training import TrainingCheckpoints
from blip_jax.checkpoints.workdir import Metadata, load_state_items
from blip_jax.runtime.errors import UserError
from blip_jax.train.config import NonfiniteConfig
from blip_jax.train.finite import DivergenceWarning, FiniteGuard, is_finite
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step
from blip_jax.train.step_metrics import StepMetrics

METADATA = Metadata(model_type="captioner", model={}, prompt="", max_length=12)
OPTIMIZER = optax.adam(0.1)


def loss(params, batch, constants, rows, key):
    value = jnp.square(params["weight"] * batch["x"]).sum()
    return value, {"loss": value, "first": batch["x"][0]}


def prepare(params, extra, batch, step, key):
    return None, {"last": batch["x"]}


TASK = types.SimpleNamespace(
    constrain=lambda params: params, move_momentum=lambda params, extra: extra, prepare=prepare,
    loss=loss, group_size=1,
)  # fmt: skip


def first_state():
    params = {"weight": jnp.float32(2)}
    return TrainState(jnp.int32(0), params, {"last": jnp.zeros(4)}, OPTIMIZER.init(params))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])  # the square of the last overflows
def test_a_step_that_is_not_finite_changes_nothing(accumulate, bad):
    step = jax.jit(make_step(TASK, OPTIMIZER, accumulate, skip_nonfinite=True))
    good = {"x": jnp.arange(4, dtype=jnp.float32)}
    before, metrics = step(first_state(), good, None)
    assert is_finite(metrics)
    after, metrics = step(before, {"x": good["x"].at[3].set(bad)}, None)
    assert not is_finite(metrics) and after.step == before.step + 1
    jax.tree.map(np.testing.assert_array_equal, after, dataclasses.replace(before, step=after.step))
    later, metrics = step(after, good, None)
    assert is_finite(metrics) and later.params["weight"] != after.params["weight"]


def test_metrics_tell_of_a_step_that_is_not_finite():
    step = jax.jit(make_step(TASK, OPTIMIZER))
    after, metrics = step(first_state(), {"x": jnp.full(4, np.nan)}, None)
    assert not is_finite(metrics) and np.isnan(after.params["weight"])


def metrics(finite):
    value = 1.0 if finite else math.nan
    return {"loss": value, "gradient_norm": value, "accuracy": 0.5}


def test_a_run_stops_at_the_first_step_that_is_not_finite():
    guard = FiniteGuard(NonfiniteConfig())
    guard.check(1, metrics(True))
    message = (
        "^gradient_norm, loss are not finite at step 2; training has stopped, and the last "
        "checkpoint stays; lower optimizer.schedule.peak_lr, or set optimizer.clip_norm=1, or "
        "leave such steps out with nonfinite.action=skip$"
    )
    with pytest.raises(UserError, match=message):
        guard.check(2, metrics(False))


def test_so_many_steps_in_a_row_are_skipped():
    guard = FiniteGuard(NonfiniteConfig("skip", max_in_a_row=3))
    for step, finite in enumerate([False, False, True, False, False], start=1):
        guard.check(step, metrics(finite))
    assert guard.skipped_steps == 4
    with pytest.raises(UserError, match="at step 6, the last of 3 skipped steps in a row "):
        guard.check(6, metrics(False))
    with pytest.raises(UserError, match="nonfinite.max_in_a_row is 0; it must be 1 or more"):
        NonfiniteConfig("skip", max_in_a_row=0)


def test_means_leave_skipped_steps_out_and_count_them():
    reports = StepMetrics(FiniteGuard(NonfiniteConfig("skip")))
    for step, value in enumerate([1.0, math.nan, 3.0], start=1):
        report = {"loss": jnp.float32(value), "gradient_norm": jnp.float32(1)}
        reports.add(step, report)
    assert reports.means() == {"loss": 2.0, "gradient_norm": 1.0, "skipped_steps": 1}
    reports.add(4, {"loss": jnp.float32(1), "gradient_norm": jnp.float32(math.inf)})
    assert reports.means() == {"skipped_steps": 2}  # none was finite


def test_divergence_is_told_once(capsys):
    warning = DivergenceWarning()
    for step in range(9):
        warning.add(step, 1.0)
    warning.add(9, 9.0)  # too early for a median
    warning.add(10, math.nan)
    assert capsys.readouterr().err == ""
    warning.add(11, 3.1)
    assert capsys.readouterr().err.startswith("the loss is 3.1 at step 11, more than 3 times its")
    warning.add(12, 30.0)
    assert capsys.readouterr().err == ""


def state(step, value):
    params = {"good": jnp.ones(2), "weight": jnp.full((2, 3), value, jnp.float32)}
    return TrainState(jnp.int32(step), params, {}, optax.sgd(0.1).init(params))


def save(folder, values, **options):
    with TrainingCheckpoints(str(folder), **options) as checkpoints:
        for step, value in values.items():
            checkpoints.save(state(step, value), METADATA)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, bad):
    save(tmp_path, {1: 1.0})
    with pytest.raises(UserError, match="^params/weight are not finite at step 2; this checkpoint"):
        save(tmp_path, {2: bad})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def cut_short(folder):
    """Cuts the largest file of a checkpoint in half."""
    largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def remove_state(folder):
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("damage", [cut_short, remove_state])
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, capsys, damage):
    save(tmp_path, {1: 1.0, 2: 2.0}, keep=2)
    damage(tmp_path / "checkpoints" / "2")
    items, _ = load_state_items(str(tmp_path), ("params",))
    np.testing.assert_array_equal(items["params"]["weight"], np.ones((2, 3)))
    message = capsys.readouterr().err
    assert "checkpoints/2 is damaged or cut short (" in message and message.count("\n") == 1
    assert message.endswith("using the checkpoint of step 1\n")
    with TrainingCheckpoints(str(tmp_path), keep=2) as checkpoints:
        restored, position = checkpoints.restore(state(0, 0.0))
        assert restored.step == position == 1
        assert "using the checkpoint of step 1" in capsys.readouterr().err
        checkpoints.save(state(2, 5.0), METADATA)  # replaces the damaged one
    items, _ = load_state_items(str(tmp_path), ("params",))
    np.testing.assert_array_equal(items["params"]["weight"], np.full((2, 3), 5.0))


def test_where_all_are_damaged_it_is_one_line(tmp_path):
    save(tmp_path, {1: 1.0})
    cut_short(tmp_path / "checkpoints" / "1")
    for read in (
        lambda: load_state_items(str(tmp_path), ("params",)),
        lambda: TrainingCheckpoints(str(tmp_path)).restore(state(0, 0.0)),
    ):
        with pytest.raises(
            UserError, match="is damaged or cut short .*, and there is no older"
        ) as error:
            read()
        assert "\n" not in str(error.value)
