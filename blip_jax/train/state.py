"""All that a training step reads and writes."""

import dataclasses
from typing import Any

import jax

from blip_jax.losses import Queue


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """One pytree: what a checkpoint holds and a step donates.

    Attributes:
      step: int32 [], steps done.
      params: the model's, float32.
      momentum: slow copy of a part of them (`models.momentum_params`), or None.
      queue: momentum features of past batches, or None.
      opt_state: optax's.
    """

    step: jax.Array
    params: dict[str, Any]
    momentum: dict[str, Any] | None
    queue: Queue | None
    opt_state: Any
