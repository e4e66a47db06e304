"""A training step on the tiny model, compiled once for a mesh and called as a plain function."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import tiny

from blip_jax import losses, nn
from blip_jax.data.tokenizer import TokenIds
from blip_jax.runtime.config import replace
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.train.mesh import batch_sharding, make_mesh, put_batch
from blip_jax.train.sharding import path_name, place, shardings
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step

NAMES = ("itc", "itm", "lm")
PAIRS, GROUP, QUEUE = 16, 2, 12  # the batch does not divide the queue
MOMENTUM = 0.9
# Moves nothing, and keeps the gradients where they can be read.
STILL = optax.chain(optax.trace(0.0), optax.scale(0.0))
KEY = jax.random.key(11)


def make_task(config=None, mesh=None, **changes):
    """A pre-training; `changes` are of its config: itm={"group_size": 4}, lm=None."""
    itc = {"queue_size": QUEUE, "momentum": MOMENTUM, "positives": "image", "alpha_warmup_steps": 0}
    task = replace(PretrainingConfig(max_length=tiny.LENGTH), itc=itc, itm={"group_size": GROUP})
    return replace(task, **changes).make(config or tiny.config(), TokenIds(), mesh)


def make_state(task, optimizer):
    """A run in its middle: momentum weights of their own, the queue partly filled.

    Not seed 0: there the devices' gradients of itm_head, up to 0.30, cancel to 0.007, of which
    float32's spacing at 0.30 is 4e-6. How they are added up then shows past 1e-5.
    """
    params = tiny.init(task.model, seed=1)
    momentum = tiny.noisy(nn.momentum_params(params), 7, 0.05)
    queue = losses.init_queue(QUEUE, task.model.embed_dim, jax.random.key(2), random_init=True)
    queue = queue._replace(valid=np.arange(QUEUE) < 8, pointer=np.int32(9))
    extra = {"momentum": momentum, "queue": queue}
    state = TrainState(np.int32(3), params, extra, optimizer.init(params))
    return jax.tree.map(np.asarray, state)


def make_batch():
    """Two images with two texts each, one of them both in a group, and a pair that is not valid."""
    batch = tiny.batch(PAIRS, GROUP)
    batch["group"][[3, 9]] = batch["group"][[2, 4]]
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
        make_step(task, optimizer, accumulate, place=functools.partial(place, mesh)),
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
    """Compares states and metrics to 1e-5 of each array's largest magnitude.

    Means of cosines to 1e-7 as well, about the spacing of float32 below 1: their terms cancel.
    """
    (state, metrics), (state2, metrics2) = found, wanted
    assert metrics.keys() == metrics2.keys()
    for name, value in metrics2.items():
        atol = 1e-7 if name.endswith("_similarity") else 0
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=atol, err_msg=name)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    beside = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(state2)}
    for path, got in leaves:
        name = path_name(path)
        want = beside[name]
        # A bias of attention keys moves no output: its gradient is 0 but for rounding.
        scale = np.abs(beside[name.replace("key_bias", "value_bias")]).max(initial=1e-12)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * scale, err_msg=name)


def assert_finite(result):
    state, metrics = result
    for name, value in metrics.items():  # among them the norm of all gradients
        assert np.isfinite(value), name
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        assert np.isfinite(x).all(), path_name(path)


def random_config():
    """With dropout and stochastic depth, so that a step with a key is full of chance."""
    return tiny.config(vit={"drop_path": 0.2}, med={"dropout": 0.1})


def undrawn(batch):
    """A batch that leaves drawing the hard negatives to the step."""
    return {name: x for name, x in batch.items() if not name.startswith("negative_")}
