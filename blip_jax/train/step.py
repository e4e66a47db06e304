"""The training step: one jitted function of (state, batch, key), whatever the task."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from blip_jax.tasks.pairs import Batch, ImageText
from blip_jax.train.state import TrainState

Step = Callable[[TrainState, Batch, jax.Array | None], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    task: ImageText, optimizer: optax.GradientTransformation, accumulate: int = 1
) -> Step:
    """The step of `task`: clamp temperature, momentum encoder, gradients, update.

    Args:
      accumulate: micro-batches that the batch is cut into; their gradients are summed. Equal to
        one batch in one piece for all three losses, as long as hard negatives are drawn in
        groups that lie within a micro-batch (see tasks/image_text.py).

    Returns: step(state, batch, key) -> (state, metrics). `key` is the run's; each step folds its
      number in, so that a resumed run equals an uninterrupted one. None: no dropout, and the batch
      brings its hard negatives.
    """

    def step(state, batch, key):
        key = None if key is None else jax.random.fold_in(key, state.step)
        teacher_key, loss_key = (None, None) if key is None else jax.random.split(key)
        state = dataclasses.replace(state, params=clamp_temperature(state.params))
        shared, state = task.prepare(state, batch, teacher_key)
        offset = jnp.arange(batch["ids"].shape[0])
        size = task.objectives.group
        parts = jax.tree.map(lambda x: micro_batches(x, accumulate, size), (batch, offset))
        gradient = jax.grad(task.loss, has_aux=True)

        def accumulated(total, inputs):
            (part, where), number = inputs
            own_key = None if key is None else jax.random.fold_in(loss_key, number)
            more = gradient(state.params, part, shared, where, own_key)
            return jax.tree.map(jnp.add, total, more)

        if accumulate == 1:
            grads, metrics = gradient(state.params, batch, shared, offset, loss_key)
        else:
            first = jax.tree.map(lambda x: x[0], parts)
            shapes = jax.eval_shape(gradient, state.params, first[0], shared, first[1], loss_key)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            grads, metrics = jax.lax.scan(
                lambda total, inputs: (accumulated(total, inputs), None),
                zeros,
                (parts, jnp.arange(accumulate)),
            )[0]
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.global_norm(grads)
        if "temperature" in state.params:
            metrics["temperature"] = state.params["temperature"]
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
        return state, metrics

    return step


def clamp_temperature(params: dict) -> dict:
    """To 0.001 … 0.5, before each step, as `BLIP_Pretrain.forward` does; a captioner has none."""
    if "temperature" not in params:
        return params
    return {**params, "temperature": jnp.clip(params["temperature"], 0.001, 0.5)}


def micro_batches(x: jax.Array, count: int, group: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], by whole groups of `group` neighbouring rows.

    Micro-batch i takes groups i, i + count, …: on a mesh every device then keeps its own rows.
    """
    group = min(group, x.shape[0])
    x = x.reshape(-1, count, group, *x.shape[1:])
    return x.swapaxes(0, 1).reshape(count, -1, *x.shape[3:])
