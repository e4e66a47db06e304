"""Which checkpoints stay, and which one a run goes on from."""

import os

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blip_jax.checkpoints.training import TrainingCheckpoints
from blip_jax.checkpoints.workdir import Metadata
from blip_jax.runtime.errors import UserError
from blip_jax.train.state import TrainState

METADATA = Metadata(model_type="captioner", model={}, prompt="", max_length=12)


def state(step):
    params = {"weight": jnp.full((2, 3), step, jnp.float32)}
    return TrainState(jnp.int32(step), params, {}, optax.sgd(0.1, 0.9).init(params))


def save(folder, steps, **options):
    with TrainingCheckpoints(str(folder), **options) as checkpoints:
        for step in steps:
            checkpoints.save(state(step), METADATA)


def names(folder):
    return sorted(os.listdir(folder / "checkpoints"))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, ["6"]),
        ({"keep": 2}, ["5", "6"]),
        ({"keep": 1, "keep_every": 2}, ["2", "4", "6"]),
        ({"keep": 2, "keep_every": 3}, ["3", "5", "6"]),
    ],
)
def test_the_newest_and_every_so_many_stay(tmp_path, options, kept):
    save(tmp_path, range(1, 7), **options)
    assert names(tmp_path) == kept


def test_what_a_crash_left_is_not_chosen_and_cleared_away(tmp_path):
    save(tmp_path, [3])
    # As Orbax names it while it writes: everything is there but the end.
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-7"
    (tmp_path / "checkpoints" / "3").rename(half)
    save(tmp_path, [2])
    with TrainingCheckpoints(str(tmp_path)) as checkpoints:
        restored, position = checkpoints.restore(state(0))
    assert position == restored.step == 2 and names(tmp_path) == ["2"]
    np.testing.assert_array_equal(restored.params["weight"], np.full((2, 3), 2))


def test_state_and_position_come_back_together(tmp_path):
    save(tmp_path, [1, 5], keep=2)
    with TrainingCheckpoints(str(tmp_path)) as checkpoints:
        restored, position = checkpoints.restore(state(0))
        assert position == restored.step == 5
    assert names(tmp_path) == ["1", "5"]


def test_there_may_be_none(tmp_path):
    with TrainingCheckpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.restore(state(0)) is None


def test_the_best_stays_too(tmp_path):
    recalls = {1: 20.0, 2: 60.0, 3: 40.0, 5: 50.0}
    with TrainingCheckpoints(str(tmp_path), keep_best="itc/r@1") as checkpoints:
        for step in range(1, 7):
            metrics = {"itc/r@1": recalls[step], "loss": 1.0} if step in recalls else None
            checkpoints.save(state(step), METADATA, metrics)
    assert names(tmp_path) == ["2", "6"]
    with TrainingCheckpoints(str(tmp_path), keep_best="itc/r@1", keep_every=4) as checkpoints:
        assert checkpoints.restore(state(0))[1] == 6
        checkpoints.save(state(8), METADATA, {"itc/r@1": 70.0})
        checkpoints.save(state(9), METADATA)
    assert names(tmp_path) == ["8", "9"]


def test_a_metric_that_no_evaluation_has_is_named(tmp_path):
    with (
        TrainingCheckpoints(str(tmp_path), keep_best="r@1") as checkpoints,
        pytest.raises(
            UserError, match=r"keep_best is 'r@1', but the evaluation has bleu4, itc/r@1"
        ),
    ):
        checkpoints.save(state(1), METADATA, {"itc/r@1": 1.0, "bleu4": 2.0})
    assert names(tmp_path) == ["1"]  # the steps so far are not lost


def test_small_replicated_arrays_are_saved_without_programs_that_slice_them(tmp_path):
    """The check for NaN alone is compiled, not a program for each shape and device."""
    params = {f"w{rows}": jnp.ones((8 * rows, 3)) for rows in range(1, 6)}
    replicated = jax.NamedSharding(jax.make_mesh((8,), ("data",)), jax.P())
    placed = jax.device_put(TrainState(jnp.int32(1), params, {}, ()), replicated)
    compiled = []

    def count(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        with TrainingCheckpoints(str(tmp_path)) as checkpoints:
            checkpoints.save(placed, METADATA)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(compiled) == 1
    with TrainingCheckpoints(str(tmp_path)) as checkpoints:
        restored, _ = checkpoints.restore(placed)
    for name, value in restored.params.items():
        assert value.sharding == replicated
        np.testing.assert_array_equal(value, params[name])
