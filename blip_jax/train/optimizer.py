"""AdamW and the learning rates of BLIP, from the pieces optax has.

| schedule | for | learning rate |
|---|---|---|
| step | pre-training | linear warm-up during epoch 0, then a factor an epoch |
| cosine_epoch | fine-tuning | cosine to min_lr, one value an epoch, no warm-up |
| cosine | small worlds | warm-up, then cosine to min_lr, a value a step |
| constant | probes | lr, no warm-up |

Steps count from 0: step 0 is trained at `schedule(config)(0)`, as in the original.
"""

from typing import Any

import jax.numpy as jnp
import optax

from blip_jax.runtime.errors import UserError

NEEDS = {
    "step": ("lr", "min_lr", "warmup_lr", "warmup_steps", "decay_rate", "steps_per_epoch"),
    "cosine_epoch": ("lr", "min_lr", "steps_per_epoch", "epochs"),
    "cosine": ("lr", "min_lr", "warmup_lr", "warmup_steps", "total_steps"),
    "constant": ("lr",),
}
POSITIVE = ("lr", "steps_per_epoch", "epochs", "total_steps")


def schedule(config: Any) -> optax.Schedule:
    """Makes the learning rate of every step.

    Args:
      config: an object with the field `name` (a key of NEEDS) and the fields NEEDS lists for it;
        `lr`, `min_lr`, `warmup_lr` are learning rates, `decay_rate` is the factor an epoch,
        `epochs` and the fields ending in `steps` are counts. Other fields are not read.

    Returns:
      A function from a step (int, or int32 scalar array) to a float32 scalar.

    Raises:
      UserError: the name is unknown, a field is missing, or a value makes no schedule.
    """
    name = getattr(config, "name", None)
    if name not in NEEDS:
        raise UserError(f"schedule name {name!r} is unknown; one of: {', '.join(NEEDS)}")
    values = {field: _field(config, name, field) for field in NEEDS[name]}
    if values.get("warmup_steps", 0) < 0:
        raise UserError(f"schedule {name}: warmup_steps is {values['warmup_steps']}, below 0")
    if name == "step":
        return _step(**values)
    if name == "cosine_epoch":
        return _cosine_epoch(**values)
    if name == "cosine":
        return _cosine(**values)
    return optax.constant_schedule(values["lr"])


def optimizer(config: Any, mask: Any = None) -> optax.GradientTransformation:
    """Makes AdamW with decoupled decay on every parameter, biases and norms included.

    The original hands `model.parameters()` to torch's AdamW as one group (pretrain.py), so
    nothing is left out of the decay there either.

    Args:
      config: what `schedule` reads, and `b1`, `b2`, `eps`, `weight_decay`, and `clip_norm`, the
        largest global norm of the gradient (0: gradients are not clipped, as the original).
      mask: a pytree of bools (or a function from parameters to one), True where decay applies.

    Returns:
      The transformation; its updates are to be added to the parameters.

    Raises:
      UserError: as `schedule`, or `clip_norm` is negative.
    """
    values = {
        field: _field(config, "adamw", field)
        for field in ("b1", "b2", "eps", "weight_decay", "clip_norm")
    }
    clip_norm = values.pop("clip_norm")
    if clip_norm < 0:
        raise UserError(f"clip_norm is {clip_norm}; give a positive norm, or 0 for no clipping")
    adamw = optax.adamw(schedule(config), mask=mask, **values)
    if clip_norm == 0:
        return adamw
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)


def _step(lr, min_lr, warmup_lr, warmup_steps, decay_rate, steps_per_epoch) -> optax.Schedule:
    """The original's pre-training rate (pretrain.py, `step_lr_schedule`, `warmup_lr_schedule`).

    There the warm-up is a matter of epoch 0 alone: one that is longer than the epoch is cut off
    at its end, one that is shorter rests at `lr`. Every later epoch has its one value.
    """

    def decayed(step):  # the step counts from the start of epoch 1
        epoch = 1 + step // steps_per_epoch
        return jnp.maximum(min_lr, lr * jnp.float32(decay_rate) ** epoch)

    if warmup_steps == 0:  # optax would stay at warmup_lr
        first = optax.constant_schedule(lr)
    else:
        first = optax.linear_schedule(warmup_lr, lr, warmup_steps)
    return optax.join_schedules([first, decayed], [steps_per_epoch])


def _cosine_epoch(lr, min_lr, steps_per_epoch, epochs) -> optax.Schedule:
    """The original's fine-tuning rate (`cosine_lr_schedule`); past the last epoch, min_lr."""
    by_epoch = optax.cosine_decay_schedule(lr, epochs, alpha=min_lr / lr)
    return lambda step: by_epoch(step // steps_per_epoch)


def _cosine(lr, min_lr, warmup_lr, warmup_steps, total_steps) -> optax.Schedule:
    if warmup_steps >= total_steps:
        raise UserError(
            f"schedule cosine: warmup_steps {warmup_steps} leaves nothing of total_steps "
            f"{total_steps}; make it smaller"
        )
    return optax.warmup_cosine_decay_schedule(warmup_lr, lr, warmup_steps, total_steps, min_lr)


def _field(config, user, field):
    """Reads a field, or says who needs it."""
    value = getattr(config, field, None)
    if value is None:
        raise UserError(f"the optimizer's field {field} is missing; {user} needs it")
    if field in POSITIVE and value <= 0:
        raise UserError(f"the optimizer's field {field} is {value}; it must be above 0")
    return value
