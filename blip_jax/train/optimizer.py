"""AdamW and the learning-rate schedules of BLIP, from the pieces optax has.

| schedule | for | learning rate |
|---|---|---|
| StepDecay | pre-training | linear warm-up during epoch 0, then a factor an epoch |
| EpochCosine | fine-tuning | cosine to min_lr, one value an epoch, no warm-up |
| WarmupCosine | small models from scratch | warm-up, then cosine to min_lr, a value a step |
| Constant | probes | peak_lr, no warm-up |

Steps count from 0: step 0 is trained at `schedule(0)`, as in the original.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from blip_jax.runtime.arguments import check_fields
from blip_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """A learning rate for every step."""

    peak_lr: float = 3e-4  # highest learning rate

    def __post_init__(self):
        check_fields(self, "optimizer.schedule.")
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), f"optimizer.schedule.{field.name}"
            if field.name in ("peak_lr", "steps_per_epoch") and value <= 0:
                raise UserError(f"{name} is {value}; it must be above 0")
            if value < 0:
                raise UserError(f"{name} is {value}; it must be 0 or more")

    @abc.abstractmethod
    def make(self, total_steps: int) -> optax.Schedule:
        """Returns a function from a step (int, or int32 scalar array) to a float32 scalar.

        Raises:
          UserError: the run is too short for it.
        """


@dataclasses.dataclass(frozen=True)
class StepDecay(Schedule):
    """The original's pre-training rate (pretrain.py, `step_lr_schedule`, `warmup_lr_schedule`).

    The warm-up takes place in epoch 0 only: a longer one is cut off at the end of the epoch, and
    after a shorter one the rate stays at its peak. Each later epoch has one value.
    """

    min_lr: float = 1e-6  # lowest learning rate after the warm-up
    warmup_lr: float = 1e-6  # learning rate of step 0
    warmup_steps: int = 3000  # from warmup_lr to peak_lr
    decay_rate: float = 0.9  # factor per epoch
    steps_per_epoch: int = 4900  # 14M pairs in batches of 2880

    def make(self, total_steps: int) -> optax.Schedule:
        def decayed(step):  # the step counts from the start of epoch 1
            epoch = 1 + step // self.steps_per_epoch
            return jnp.maximum(self.min_lr, self.peak_lr * jnp.float32(self.decay_rate) ** epoch)

        if self.warmup_steps == 0:  # optax would stay at warmup_lr
            first = optax.constant_schedule(self.peak_lr)
        else:
            first = optax.linear_schedule(self.warmup_lr, self.peak_lr, self.warmup_steps)
        return optax.join_schedules([first, decayed], [self.steps_per_epoch])


@dataclasses.dataclass(frozen=True)
class EpochCosine(Schedule):
    """The original's fine-tuning rate (`cosine_lr_schedule`); past the last epoch, min_lr."""

    peak_lr: float = 1e-5  # highest learning rate
    min_lr: float = 0.0  # learning rate after the last epoch
    steps_per_epoch: int = 2213  # COCO's 566,747 pairs in batches of 256

    def make(self, total_steps: int) -> optax.Schedule:
        epochs = max(-(-total_steps // self.steps_per_epoch), 1)
        by_epoch = optax.cosine_decay_schedule(
            self.peak_lr, epochs, alpha=self.min_lr / self.peak_lr
        )
        return lambda step: by_epoch(step // self.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Linear warm-up, then cosine to min_lr at the end of the run."""

    min_lr: float = 1e-6  # learning rate at the end
    warmup_lr: float = 1e-6  # learning rate of step 0
    warmup_steps: int = 3000  # from warmup_lr to peak_lr

    def make(self, total_steps: int) -> optax.Schedule:
        if self.warmup_steps >= total_steps:
            raise UserError(
                f"optimizer.schedule.warmup_steps is {self.warmup_steps}, the run has "
                f"{total_steps} steps; make the warm-up shorter"
            )
        return optax.warmup_cosine_decay_schedule(
            self.warmup_lr, self.peak_lr, self.warmup_steps, total_steps, self.min_lr
        )


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """One learning rate for all steps."""

    def make(self, total_steps: int) -> optax.Schedule:
        return optax.constant_schedule(self.peak_lr)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with decoupled decay on every parameter, biases and norms included.

    The original hands `model.parameters()` to torch's AdamW as one group (pretrain.py), so that
    nothing is left out of the decay there either.
    """

    # Learning rate; its class is chosen in the config file.
    schedule: StepDecay | EpochCosine | WarmupCosine | Constant = StepDecay()
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.05  # of every parameter, times the learning rate
    clip_norm: float = 0.0  # largest global gradient norm; 0: not clipped, as in the original
    temperature_lr_scale: float = 1.0  # factor on the temperature's learning rate

    def __post_init__(self):
        check_fields(self, "optimizer.")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name} is {getattr(self, name)}; it must be in [0, 1)")
        for name in ("eps", "weight_decay", "temperature_lr_scale"):
            if getattr(self, name) < 0:
                raise UserError(f"optimizer.{name} is {getattr(self, name)}; it must be 0 or more")
        if self.clip_norm < 0:
            raise UserError(
                f"optimizer.clip_norm is {self.clip_norm}; give a positive norm, or 0 for none"
            )

    def make(self, total_steps: int) -> optax.GradientTransformation:
        """Returns the transformation; its updates are to be added to the parameters.

        Raises:
          UserError: the run is too short for the schedule.
        """
        adamw = optax.adamw(
            self.schedule.make(total_steps),
            b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay,
        )  # fmt: skip
        if self.clip_norm:
            adamw = optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)
        # Chained last, so that it scales AdamW's step for the temperature.
        scale = optax.scale(self.temperature_lr_scale)
        return optax.chain(adamw, optax.masked(scale, is_temperature))


def learning_rate(schedule: optax.Schedule, opt_state: Any) -> float:
    """Returns the rate of the last update that changed the parameters; skipped steps do not count.

    Args:
      opt_state: of the transformation that `OptimizerConfig.make` returns.
    """
    counts = optax.tree_utils.tree_get_all_with_path(opt_state, "count")
    return float(schedule(max(int(counts[0][1]) - 1, 0)))


def is_temperature(params: Any) -> Any:
    """Returns a mask over parameters: True for the temperature alone."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/") == "temperature",
        params,
    )
