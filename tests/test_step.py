"""The training step: the same on every mesh and in micro-batches, finite at every edge."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from blip_jax import losses, models
from blip_jax.errors import UserError
from blip_jax.train.mesh import batch_sharding, check_batch, make_mesh, put_batch
from blip_jax.train.sharding import path_name, shardings
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step
from blip_jax.train.tasks.image_text import ImageText, Objectives

NAMES = ("itc", "itm", "lm")
PAIRS, GROUP, QUEUE = 16, 2, 12  # the batch does not divide the queue
MOMENTUM = 0.9
# Moves nothing, and keeps the gradients where they can be read.
STILL = optax.chain(optax.trace(0.0), optax.scale(0.0))


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def make_task(config=None, **changes):
    values = {
        "queue": QUEUE, "momentum": MOMENTUM, "negative_group": GROUP, "positives": "image",
        **changes,
    }  # fmt: skip
    return ImageText(config or tiny.config(), Objectives(NAMES, **values))


def make_state(task, optimizer):
    """A run in its middle: momentum weights of their own, the queue partly filled."""
    params = tiny.init(task.config)
    momentum = tiny.noisy(models.momentum_subtree(params), 7, 0.05)
    queue = losses.init_queue(QUEUE, task.config.embed, jax.random.key(2), random_start=True)
    queue = queue._replace(valid=np.arange(QUEUE) < 8, pointer=np.int32(9))
    state = TrainState(np.int32(3), params, momentum, queue, optimizer.init(params))
    return jax.tree.map(np.asarray, state)


def make_batch():
    """Two images with two texts each, and a pair that was set aside."""
    batch = tiny.batch(PAIRS, GROUP)
    batch["group"][[5, 9]] = batch["group"][[2, 3]]
    batch["valid"][6] = False
    return batch


def stepper(sizes, accumulate=1, task=None, optimizer=STILL):
    """A function (batch, key, **changes to the state) -> (state, metrics), compiled once."""
    task = task or make_task()
    count = int(np.prod(list(sizes.values())))
    mesh = make_mesh(sizes, jax.devices()[:count])
    state = make_state(task, optimizer)
    placed = shardings(state, mesh)
    step = jax.jit(
        make_step(task, optimizer, accumulate),
        in_shardings=(placed, batch_sharding(mesh), None),
        out_shardings=(placed, None),
        donate_argnums=0,
    )

    def run(batch, key=None, **changes):
        start = jax.device_put(dataclasses.replace(state, **changes), placed)
        return jax.device_get(step(start, put_batch(batch, mesh), key))

    run.state = state
    return run


def assert_same(found, wanted):
    """States and metrics to 1e-5 of each array's largest magnitude."""
    (state, metrics), (state2, metrics2) = found, wanted
    assert metrics.keys() == metrics2.keys()
    for name, value in metrics2.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    beside = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(state2)}
    for path, got in leaves:
        name = path_name(path)
        want = beside[name]
        # A bias of attention keys moves no output: its gradient is 0 but for rounding.
        scale = np.abs(beside[name.replace("key_bias", "value_bias")]).max(initial=1e-12)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * scale, err_msg=name)


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
    with pytest.raises(UserError, match="negative_group 16 does not divide .* of 8 pairs"):
        check_batch(16, 2, 16, mesh)


def test_a_batch_that_cannot_be_cut_is_refused():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    check_batch(32, 2, 2, mesh)
    for size, accumulate in ((12, 1), (24, 2), (16, 3)):
        with pytest.raises(UserError, match=f"batch_size {size} .* multiple of {8 * accumulate}"):
            check_batch(size, accumulate, 2, mesh)


# With a key: dropout, stochastic depth, and negatives that the step draws

KEY = jax.random.key(11)


def random_task():
    config = tiny.config(vit={"drop_path": 0.2}, med={"dropout": 0.1})
    return make_task(config, negative_group=4)


def random_batch():
    batch = make_batch()
    return {name: x for name, x in batch.items() if not name.startswith("negative_")}


@pytest.fixture(scope="module")
def drawn():
    return stepper({"data": 1}, task=random_task())


def test_a_step_follows_from_key_and_number(drawn):
    first, metrics = drawn(random_batch(), KEY)
    again, repeated = drawn(random_batch(), KEY)
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    assert metrics == repeated
    later = drawn(random_batch(), KEY, step=np.int32(4))[1]
    other = drawn(random_batch(), jax.random.key(12))[1]
    for name in NAMES:
        assert len({float(m[name]) for m in (metrics, later, other)}) == 3, name


def test_chance_is_the_same_on_every_mesh(drawn):
    found = stepper({"data": 2, "fsdp": 2, "tensor": 2}, task=random_task())(random_batch(), KEY)
    assert_same(found, drawn(random_batch(), KEY))


# What a step does to the state


@pytest.mark.parametrize(
    ("before", "after"), [(0.9, 0.5), (0.5, 0.5), (0.2, 0.2), (1e-5, 0.001), (-1.0, 0.001)]
)
def test_temperature_is_clamped_before_the_step(single, before, after):
    params = {**single.state.params, "temperature": np.float32(before)}
    state, metrics = single(make_batch(), params=params)
    assert metrics["temperature"] == state.params["temperature"] == np.float32(after)


def test_momentum_weights_move_towards_the_steps_weights(single, wanted):
    params, momentum = single.state.params, single.state.momentum
    expected = jax.tree.map(
        lambda slow, w: MOMENTUM * slow + (1 - MOMENTUM) * w,
        momentum,
        models.momentum_subtree(params),
    )
    found = wanted[0].momentum
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_momentum_encoder_leaves_out_decoder_and_heads(single):
    names = {path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(single.state.momentum)}
    parts = {part for name in names for part in name.split("/")}
    assert {"vit", "encoder_self_attention", "embeddings", "vision_proj", "text_proj"} <= parts
    assert not parts & {"decoder_self_attention", "lm_head", "itm_head", "temperature"}


def test_queue_takes_the_momentum_features(single, wanted):
    task, batch, queue = make_task(), make_batch(), wanted[0].queue
    image, text = jax.jit(task.features)(wanted[0].momentum, batch, None)
    at = (9 + np.arange(PAIRS - QUEUE, PAIRS)) % QUEUE  # the last of the batch fill it all
    for found, feature in ((queue.image, image), (queue.text, text)):
        np.testing.assert_allclose(found[at], feature[PAIRS - QUEUE :], atol=1e-5)
    np.testing.assert_array_equal(queue.group[at], batch["group"][PAIRS - QUEUE :])
    np.testing.assert_array_equal(queue.valid[at], batch["valid"][PAIRS - QUEUE :])
    assert queue.pointer == (9 + PAIRS) % QUEUE and wanted[0].step == 4


def test_pairs_set_aside_change_nothing(single, wanted):
    batch = make_batch()
    batch["image"][6] += 5.0
    batch["ids"][6, 1:] = 9
    state, metrics = single(batch)
    for name in NAMES:
        np.testing.assert_allclose(metrics[name], wanted[1][name], rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], wanted[1]["gradient_norm"], rtol=1e-5)


def test_alpha_ramps_from_0():
    task = make_task(alpha=0.4, alpha_steps=8)
    state, batch = make_state(task, STILL), make_batch()
    prepare = jax.jit(lambda state: task.prepare(state, batch, None)[0].alpha)
    for step, alpha in ((0, 0.0), (2, 0.1), (8, 0.4), (50, 0.4)):
        found = prepare(dataclasses.replace(state, step=np.int32(step)))
        assert found == pytest.approx(alpha, abs=1e-7)


# Edges: a step under AdamW, with dropout and drawn negatives, stays finite

FOUR = {
    "four pairs": {},
    "texts of only pads": {"ids": np.zeros((4, tiny.LENGTH), np.int32), "mask": np.zeros((4, tiny.LENGTH), bool)},
    "one caption for all": {"text_group": np.zeros(4, np.int32)},
    "two captions": {"text_group": np.array([1, 1, 1, 2], np.int32)},
    "all set aside": {"valid": np.zeros(4, bool)},
    "one left": {"valid": np.array([False, True, False, False])},
    "black images": {"image": np.zeros((4, tiny.IMAGE, tiny.IMAGE, 3), np.float32)},
}  # fmt: skip


def edge_stepper(group):
    config = tiny.config(vit={"drop_path": 0.2}, med={"dropout": 0.1})
    task = make_task(config, negative_group=group, positives="text", negative_floor=0.0)
    return stepper({"data": 1}, task=task, optimizer=optax.adamw(1e-3))


@pytest.fixture(scope="module")
def four():
    return edge_stepper(4)


def assert_finite(result):
    state, metrics = result
    for name, value in metrics.items():  # among them the norm of all gradients
        assert np.isfinite(value), name
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        assert np.isfinite(x).all(), path_name(path)


@pytest.mark.parametrize("edge", FOUR)
def test_edges_are_finite(four, edge):
    batch = {**tiny.batch(4, 4), **FOUR[edge]}
    del batch["negative_image"], batch["negative_text"]
    state, metrics = four(batch, KEY)
    assert_finite((state, metrics))
    if edge == "all set aside":
        assert metrics["loss"] == metrics["gradient_norm"] == 0
    if edge == "texts of only pads":
        assert metrics["lm"] == 0 < metrics["itm"]
    # Twice more, with momentum weights and a queue that hold what the edge left there.
    for _ in range(2):
        state, metrics = four(batch, KEY, **{f.name: getattr(state, f.name) for f in dataclasses.fields(state)})
    assert_finite((state, metrics))


def test_a_single_pair_is_finite():
    batch = tiny.batch(1, 1)
    del batch["negative_image"], batch["negative_text"]
    state, metrics = edge_stepper(1)(batch, KEY)
    assert_finite((state, metrics))
    assert metrics["itm"] > 0  # the pair itself still counts as a match


@pytest.mark.parametrize("names", [("lm",), ("itc", "itm")], ids=str)
def test_tasks_of_fewer_losses(names):
    task = ImageText(tiny.config(), Objectives(names, queue=QUEUE, negative_group=GROUP))
    params = tiny.init(task.config)
    momentum = queue = None
    if task.objectives.contrast:
        momentum = models.momentum_subtree(params)
        queue = losses.init_queue(QUEUE, 8, jax.random.key(0))
    state = TrainState(jnp.int32(0), params, momentum, queue, STILL.init(params))
    state, metrics = jax.jit(make_step(task, STILL))(state, make_batch(), None)
    assert_finite((state, metrics))
    assert set(names) == set(metrics) & set(NAMES)
    assert metrics["loss"] == pytest.approx(sum(metrics[name] for name in names), rel=1e-6)
    moved = {path_name(p) for p, g in jax.tree_util.tree_leaves_with_path(state.opt_state[0].trace) if np.any(g)}
    assert any("decoder_self_attention" in name for name in moved) == ("lm" in names)
    assert any("encoder_self_attention" in name for name in moved) == ("itc" in names)
