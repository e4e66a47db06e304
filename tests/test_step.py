"""The training step: the same on every mesh and in micro-batches, and what it does to the state."""

import jax
import numpy as np
import pytest
from step_fixture import (
    KEY,
    MOMENTUM,
    NAMES,
    PAIRS,
    QUEUE,
    STILL,
    assert_same,
    make_batch,
    make_state,
    make_task,
    random_config,
    stepper,
    undrawn,
)

from blip_jax import nn
from blip_jax.runtime.errors import UserError
from blip_jax.train.mesh import check_batch, make_mesh
from blip_jax.train.sharding import path_name


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def single():
    return stepper({"data": 1})


@pytest.fixture(scope="module")
def wanted(single):
    return single(make_batch())


def test_every_parameter_has_a_gradient(wanted):
    trace = wanted[0].opt_state[0].trace
    for path, gradient in jax.tree_util.tree_leaves_with_path(trace):
        assert np.isfinite(gradient).all() and np.any(gradient), path_name(path)
    assert wanted[1]["loss"] == pytest.approx(sum(wanted[1][name] for name in NAMES), rel=1e-6)


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 8},
        {"data": 2, "fsdp": 4},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"data": 2, "tensor": 4},
    ],
    ids=str,
)
def test_every_mesh_is_one_device(sizes, wanted):
    assert_same(stepper(sizes)(make_batch()), wanted)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_are_the_whole_batch(accumulate, wanted):
    assert_same(stepper({"data": 1}, accumulate)(make_batch()), wanted)


def test_micro_batches_on_a_mesh_are_the_whole_batch(wanted):
    assert_same(stepper({"data": 2, "fsdp": 2}, 4)(make_batch()), wanted)


def test_negatives_over_more_than_a_micro_batch_are_refused():
    # Then a pair's hard negative could lie in another micro-batch, which is not there to be read.
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    check_batch(16, 2, 8, mesh)
    with pytest.raises(
        UserError, match="micro-batch of 8 rows is not a multiple of .*group_size 16"
    ):
        check_batch(16, 2, 16, mesh)


def test_a_batch_that_cannot_be_cut_is_refused():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    check_batch(32, 2, 2, mesh)
    for size, accumulate in ((12, 1), (24, 2), (16, 3)):
        with pytest.raises(UserError, match=f"batch_size {size} .* multiple of {8 * accumulate}"):
            check_batch(size, accumulate, 2, mesh)
    for named, accumulate, group in (("accumulate_steps is 0", 0, 2), ("group_size is 0", 1, 0)):
        with pytest.raises(UserError, match=named):
            check_batch(32, accumulate, group, mesh)


# With a key: dropout, stochastic depth, and negatives that the step draws


def random_task():
    return make_task(random_config(), itm={"group_size": 4})


@pytest.fixture(scope="module")
def drawn():
    return stepper({"data": 1}, task=random_task())


def test_a_step_follows_from_key_and_number(drawn):
    first, metrics = drawn(undrawn(make_batch()), KEY)
    again, repeated = drawn(undrawn(make_batch()), KEY)
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    assert metrics == repeated
    later = drawn(undrawn(make_batch()), KEY, step=np.int32(4))[1]
    other = drawn(undrawn(make_batch()), jax.random.key(12))[1]
    for name in NAMES:
        assert len({float(m[name]) for m in (metrics, later, other)}) == 3, name


def test_chance_is_the_same_on_every_mesh(drawn):
    found = stepper({"data": 2, "fsdp": 2, "tensor": 2}, task=random_task())(
        undrawn(make_batch()), KEY
    )
    assert_same(found, drawn(undrawn(make_batch()), KEY))


# What a step does to the state


@pytest.mark.parametrize(
    ("before", "after"), [(0.9, 0.5), (0.5, 0.5), (0.2, 0.2), (1e-5, 0.001), (-1.0, 0.001)]
)
def test_temperature_is_clamped_before_the_step(single, before, after):
    params = {**single.state.params, "temperature": np.float32(before)}
    state, metrics = single(make_batch(), params=params)
    assert metrics["temperature"] == state.params["temperature"] == np.float32(after)


def test_momentum_weights_move_towards_the_steps_weights(single, wanted):
    params, momentum = single.state.params, single.state.extra["momentum"]
    expected = jax.tree.map(
        lambda slow, w: MOMENTUM * slow + (1 - MOMENTUM) * w,
        momentum,
        nn.momentum_params(params),
    )
    found = wanted[0].extra["momentum"]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_momentum_encoder_leaves_out_decoder_and_heads(single):
    names = {
        path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(single.state.extra["momentum"])
    }
    parts = {part for name in names for part in name.split("/")}
    assert {"vit", "encoder_self_attention", "embeddings", "vision_proj", "text_proj"} <= parts
    assert not parts & {"decoder_self_attention", "lm_head", "itm_head", "temperature"}


def test_queue_takes_the_momentum_features(single, wanted):
    task, batch, queue = make_task(), make_batch(), wanted[0].extra["queue"]
    image, text = jax.jit(task.features)(wanted[0].extra["momentum"], batch, None)
    at = (9 + np.arange(PAIRS - QUEUE, PAIRS)) % QUEUE  # the last of the batch fill it all
    for found, feature in ((queue.image, image), (queue.text, text)):
        np.testing.assert_allclose(found[at], feature[PAIRS - QUEUE :], atol=1e-5)
    np.testing.assert_array_equal(queue.group[at], batch["group"][PAIRS - QUEUE :])
    np.testing.assert_array_equal(queue.valid[at], batch["valid"][PAIRS - QUEUE :])
    assert queue.pointer == (9 + PAIRS) % QUEUE and wanted[0].step == 4


def test_pairs_skipped_change_nothing(single, wanted):
    batch = make_batch()
    batch["image"][6] += 5.0
    batch["ids"][6, 1:] = 9
    state, metrics = single(batch)
    for name in NAMES:
        np.testing.assert_allclose(metrics[name], wanted[1][name], rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], wanted[1]["gradient_norm"], rtol=1e-5)


def test_alpha_ramps_from_0():
    task = make_task(itc={"alpha": 0.4, "alpha_warmup_steps": 8})
    state, batch = make_state(task, STILL), make_batch()
    prepare = jax.jit(
        lambda params, extra, step: task.prepare(params, extra, batch, step, None)[0].alpha
    )
    for step, alpha in ((0, 0.0), (2, 0.1), (8, 0.4), (50, 0.4)):
        found = prepare(state.params, state.extra, np.int32(step))
        assert found == pytest.approx(alpha, abs=1e-7)
