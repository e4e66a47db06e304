"""Steps at the edges: no negatives, no words, no valid pairs. All that comes out is finite."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import tiny
from step_fixture import (
    KEY,
    NAMES,
    STILL,
    assert_finite,
    make_batch,
    make_task,
    random_config,
    stepper,
    undrawn,
)

from blip_jax.train.sharding import path_name
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step

NOTHING = np.zeros((4, tiny.LENGTH), np.int32)
FOUR = {
    "four pairs": {},
    "texts of only pads": {"ids": NOTHING, "mask": NOTHING.astype(bool)},
    "one caption for all": {"text_group": np.zeros(4, np.int32)},
    "two captions": {"text_group": np.array([1, 1, 1, 2], np.int32)},
    "none valid": {"valid": np.zeros(4, bool)},
    "one left": {"valid": np.array([False, True, False, False])},
    "black images": {"image": np.zeros((4, tiny.IMAGE, tiny.IMAGE, 3), np.float32)},
}  # fmt: skip


def edge_stepper(config, group):
    """AdamW and drawn negatives; pairs of one caption are positives of each other."""
    itm = {"group_size": group, "floor": 0.0}
    task = make_task(config, itc={"positives": "text"}, itm=itm)
    return stepper({"data": 1}, task=task, optimizer=optax.adamw(1e-3))


@pytest.fixture(scope="module")
def four():
    return edge_stepper(random_config(), 4)


@pytest.mark.parametrize("edge", FOUR)
def test_edges_are_finite(four, edge):
    batch = {**undrawn(tiny.batch(4, 4)), **FOUR[edge]}
    state, metrics = four(batch, KEY)
    assert_finite((state, metrics))
    if edge == "none valid":
        assert metrics["loss"] == metrics["gradient_norm"] == 0
    if edge == "texts of only pads":
        assert metrics["lm"] == 0 < metrics["itm"]
    # Twice more, with momentum weights and a queue that hold what the edge left there.
    for _ in range(2):
        fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        state, metrics = four(batch, KEY, **fields)
    assert_finite((state, metrics))


def test_a_single_pair_is_finite():
    state, metrics = edge_stepper(tiny.config(), 1)(undrawn(tiny.batch(1, 1)), KEY)
    assert_finite((state, metrics))
    assert metrics["itm"] > 0  # the pair itself still counts as a match


@pytest.mark.parametrize("names", [("lm",), ("itc", "itm")], ids=str)
def test_tasks_of_fewer_losses(names):
    task = make_task(**dict.fromkeys(set(NAMES) - set(names)))
    params = tiny.init(task.model)
    extra = task.init_extra(params, jax.random.key(0))
    assert set(extra) == ({"momentum", "queue"} if "itc" in names else set())
    state = TrainState(np.int32(0), params, extra, STILL.init(params))
    state, metrics = jax.device_get(jax.jit(make_step(task, STILL))(state, make_batch(), None))
    assert_finite((state, metrics))
    assert set(names) == set(metrics) & set(NAMES)
    assert metrics["loss"] == pytest.approx(sum(metrics[name] for name in names), rel=1e-6)
    gradients = jax.tree_util.tree_leaves_with_path(state.opt_state[0].trace)
    moved = {path_name(path) for path, gradient in gradients if np.any(gradient)}
    assert any("decoder_self_attention" in name for name in moved) == ("lm" in names)
    assert any("encoder_self_attention" in name for name in moved) == ("itc" in names)
