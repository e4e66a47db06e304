"""All that a training step reads and writes."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """One pytree: what a checkpoint holds and a step donates.

    Attributes:
      step: int32 [], steps done.
      params: the model's, float32.
      extra: what the task keeps in addition (momentum weights, queue); {} if nothing.
      opt_state: optax's.
    """

    step: jax.Array
    params: dict[str, Any]
    extra: dict[str, Any]
    opt_state: Any
