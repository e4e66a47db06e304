"""The training step: one jitted function of (state, batch, key), for any task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from blip_jax.tasks.base import Batch, Task
from blip_jax.train.state import TrainState

Step = Callable[[TrainState, Batch, jax.Array | None], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    accumulate_steps: int = 1,
    skip_nonfinite: bool = False,
    place: Callable[[Any, bool], Any] = lambda tree, in_use: tree,
) -> Step:
    """Returns the step of `task`: constrain, prepare, gradients, update (tasks/base.py).

    Args:
      accumulate_steps: micro-batches that the batch is split into; their gradients are summed.
        Equal to the batch in one piece, as `task.prepare` computes all normalisers of it.
      skip_nonfinite: a step whose loss or gradient norm is not finite changes nothing but the
        step's number. Its metrics tell of such a step either way (finite.py).

    Returns: step(state, batch, key) -> (state, metrics). `key` is the run's; each step folds its
      number in, so that a resumed run equals an uninterrupted one. None: no dropout.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array | None):
        key = None if key is None else jax.random.fold_in(key, state.step)
        prepare_key, loss_key = (None, None) if key is None else jax.random.split(key)
        kept = task.constrain(state.params)
        extra = task.move_momentum(kept, state.extra)
        in_use = place({"params": kept, "extra": extra}, True)
        params, given = in_use["params"], in_use["extra"]
        constants, changed = task.prepare(params, given, batch, state.step, prepare_key)
        # What comes back as it was given was gathered for `prepare` alone.
        extra = {name: extra[name] if x is given.get(name) else x for name, x in changed.items()}
        rows = jnp.arange(jax.tree.leaves(batch)[0].shape[0])
        gradient = jax.grad(task.loss, has_aux=True)

        def add(total, inputs):
            (part, part_rows), number = inputs
            part_key = None if key is None else jax.random.fold_in(loss_key, number)
            more = gradient(params, part, constants, part_rows, part_key)
            return jax.tree.map(jnp.add, total, more), None

        if accumulate_steps == 1:
            grads, metrics = gradient(params, batch, constants, rows, loss_key)
        else:
            parts = jax.tree.map(
                lambda x: micro_batches(x, accumulate_steps, task.group_size), (batch, rows)
            )
            part, part_rows = jax.tree.map(lambda x: x[0], parts)
            shapes = jax.eval_shape(gradient, params, part, constants, part_rows, loss_key)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (grads, metrics), _ = jax.lax.scan(add, zeros, (parts, jnp.arange(accumulate_steps)))
        placed = place({"params": grads, "extra": extra}, False)
        grads, extra = placed["params"], placed["extra"]
        updates, opt_state = optimizer.update(grads, state.opt_state, kept)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        new = (optax.apply_updates(kept, updates), extra, opt_state)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            # The queue too: one NaN among its features would reach every later step.
            old = (kept, state.extra, state.opt_state)
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
        return TrainState(state.step + 1, *new), metrics

    return step


def micro_batches(x: jax.Array, count: int, group_size: int) -> jax.Array:
    """Splits [B, ...] into [count, B / count, ...], by whole groups of neighbouring rows.

    Micro-batch i takes groups i, i + count, …: on a mesh every device then keeps its own rows.
    """
    group_size = min(group_size, x.shape[0])
    x = x.reshape(-1, count, group_size, *x.shape[1:])
    return x.swapaxes(0, 1).reshape(count, -1, *x.shape[3:])
