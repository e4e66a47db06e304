"""Learning rates against values worked by hand from the original's formulas; AdamW's steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from blip_jax.runtime.errors import UserError
from blip_jax.train.optimizer import (
    Constant,
    EpochCosine,
    OptimizerConfig,
    StepDecay,
    WarmupCosine,
    learning_rate,
)

STEP = StepDecay(
    peak_lr=1.0, min_lr=0.3, warmup_lr=0.2, warmup_steps=4, decay_rate=0.5, steps_per_epoch=6
)


def rates(schedule, steps, total_steps=1000):
    of_step = schedule.make(total_steps)
    return [float(of_step(jnp.int32(step))) for step in steps]


def test_step_warms_up_in_epoch_0_and_then_decays_by_epoch_to_the_floor():
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.5, 0.5, 0.3, 0.3]
    got = rates(STEP, [0, 1, 2, 3, 4, 5, 6, 11, 12, 600])
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_step_cuts_a_warm_up_longer_than_epoch_0():
    # 0.2 + 0.8 * 5 / 8 = 0.7 on the last step of epoch 0; epoch 1 starts at 1.0 * 0.5.
    got = rates(dataclasses.replace(STEP, warmup_steps=8), [0, 5, 6, 7])
    np.testing.assert_allclose(got, [0.2, 0.7, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_the_rate_that_is_told_is_that_of_the_last_update(clip_norm):
    config = OptimizerConfig(schedule=EpochCosine(peak_lr=1.0, min_lr=0.0, steps_per_epoch=1),
                             clip_norm=clip_norm)  # fmt: skip
    optimizer, params = config.make(10), {"temperature": jnp.ones(()), "w": jnp.ones(3)}
    schedule, state = config.schedule.make(10), optimizer.init(params)
    assert learning_rate(schedule, state) == schedule(0)
    for step in range(3):
        _, state = optimizer.update(params, state, params)
        assert learning_rate(schedule, state) == pytest.approx(float(schedule(step)))


def test_step_without_warm_up_starts_at_lr():
    assert rates(dataclasses.replace(STEP, warmup_steps=0), [0, 5, 6]) == [1.0, 1.0, 0.5]


def test_step_at_the_papers_values():
    # ViT-B: 14M pairs, batch 2880; 3e-4 * 0.9 ** 19 = 4.052555e-05.
    got = rates(StepDecay(steps_per_epoch=4861), [0, 1500, 3000, 4860, 4861, 19 * 4861])
    np.testing.assert_allclose(got, [1e-6, 1.505e-4, 3e-4, 3e-4, 2.7e-4, 4.052555e-5], rtol=1e-5)


def test_cosine_epoch_is_held_within_an_epoch_and_ends_at_the_floor():
    schedule = EpochCosine(peak_lr=1.0, min_lr=0.2, steps_per_epoch=10)
    # 0.2 + 0.4 * (1 + cos(pi * epoch / 4)) for epochs 0 to 3, then the floor.
    expected = [1.0, 1.0, 0.8828427, 0.8828427, 0.6, 0.3171573, 0.3171573, 0.2, 0.2]
    got = rates(schedule, [0, 9, 10, 19, 20, 30, 39, 40, 75], total_steps=40)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_cosine_warms_up_and_falls_smoothly():
    schedule = WarmupCosine(peak_lr=1.0, min_lr=0.3, warmup_lr=0.2, warmup_steps=4)
    # Warm-up of 4 steps, then 8 steps of cosine from 1.0 to 0.3: half-way is 0.65.
    got = rates(schedule, [0, 2, 4, 6, 8, 12, 99], total_steps=12)
    np.testing.assert_allclose(got, [0.2, 0.6, 1.0, 0.8974874, 0.65, 0.3, 0.3], rtol=1e-6)


def test_constant_needs_the_rate_alone():
    assert rates(Constant(0.25), [0, 7]) == [0.25, 0.25]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: dataclasses.replace(STEP, peak_lr=0.0), "peak_lr is 0"),
        (lambda: dataclasses.replace(STEP, steps_per_epoch=0), "steps_per_epoch is 0"),
        (lambda: dataclasses.replace(STEP, warmup_steps=-1), "warmup_steps is -1"),
        (lambda: WarmupCosine(warmup_steps=4).make(4), "warmup_steps is 4, the run has 4 steps"),
        (lambda: OptimizerConfig(clip_norm=-1.0), "clip_norm is -1.0"),
    ],
)
def test_faults_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_decay_reaches_every_parameter():
    tx = OptimizerConfig(Constant(0.1), weight_decay=0.5).make(1)
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 4.0), "scale": jnp.ones(())}
    zeros = {name: jnp.zeros_like(value) for name, value in params.items()}
    updates, _ = tx.update(zeros, tx.init(params), params)
    for name, value in params.items():  # no gradient: the update is -lr * decay * parameter
        np.testing.assert_allclose(updates[name], -0.05 * value, rtol=1e-6)


def test_the_temperature_has_a_learning_rate_of_its_own():
    tx = OptimizerConfig(Constant(0.1), weight_decay=0.0, temperature_lr_scale=0.25).make(1)
    params = {"temperature": jnp.float32(0.07), "head": {"temperature": jnp.float32(1.0)}}
    gradient = {"temperature": jnp.float32(2.0), "head": {"temperature": jnp.float32(2.0)}}
    updates, _ = tx.update(gradient, tx.init(params), params)
    # AdamW's first step is the learning rate, but for the rounding of 1 - b2 in float32 (7e-6).
    # Only the temperature at the top level has its own.
    assert float(updates["temperature"]) == pytest.approx(-0.025, rel=1e-5)
    assert float(updates["head"]["temperature"]) == pytest.approx(-0.1, rel=1e-5)


def test_clipping_bounds_the_norm_the_moments_see():
    tx = OptimizerConfig(Constant(0.1), clip_norm=1.0).make(1)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    _, state = tx.update({"a": jnp.float32(3.0), "b": jnp.float32(4.0)}, tx.init(params), params)
    first_moment = optax.tree_utils.tree_get(state, "mu")  # 0.1 * (3, 4) / 5
    np.testing.assert_allclose([first_moment["a"], first_moment["b"]], [0.06, 0.08], rtol=1e-6)


def test_five_steps_equal_torch_adamw():
    torch = pytest.importorskip("torch")
    schedule = StepDecay(
        peak_lr=1e-2, warmup_lr=1e-3, min_lr=1e-4, warmup_steps=2, decay_rate=0.5, steps_per_epoch=3
    )
    of_step, tx = schedule.make(5), OptimizerConfig(schedule).make(5)
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 4)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(start))
    adamw = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.05)
    ours, state = jnp.asarray(start), tx.init(jnp.asarray(start))
    for step in range(5):
        gradient = rng.normal(size=start.shape).astype(np.float32)
        updates, state = tx.update(jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        adamw.param_groups[0]["lr"] = float(of_step(step))
        theirs.grad = torch.tensor(gradient)
        adamw.step()
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-6, rtol=0)
    assert float(jnp.abs(ours - start).max()) > 1e-2  # the parameters did move
