"""Which checkpoints stay, and which one a run goes on from."""

import os

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blip_jax.checkpoints.training import Metadata, TrainingCheckpoints
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
