"""What a training runs on its devices, jitted: its beginning and its step."""

import functools

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from blip_jax import losses, nn
from blip_jax.tasks.objectives import Objectives
from blip_jax.tasks.pairs import ImageText
from blip_jax.train.mesh import batch_sharding
from blip_jax.train.optimizer import optimizer
from blip_jax.train.sharding import shardings
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step


class Program:
    """The functions of a training that follow from its network, objectives and mesh alone.

    Attributes:
      task: the losses.
      mesh: devices that it is for.
      shapes: of the TrainState, with shardings.
      init: jitted key -> state; start: jitted (parameters, key) -> state.
      step: jitted (state, batch, key) -> (state, metrics); it consumes the state.
    """

    def __init__(
        self,
        model: nn.BlipConfig,
        model_type: str,
        objectives: Objectives,
        settings: FrozenConfigDict,
        accumulate: int,
        mesh: Mesh,
    ):
        whole = NamedSharding(mesh, PartitionSpec())
        everywhere = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)
        self.task, self.mesh = ImageText(model, objectives, everywhere), mesh
        # Chained last: AdamW's step for the temperature, made smaller.
        self._optimizer = optax.chain(
            optimizer(settings),
            optax.masked(optax.scale(settings.temperature_scale), only_temperature),
        )

        def init(key: jax.Array) -> TrainState:
            return self._state(nn.init(model, key, model_type), key)

        shapes = jax.eval_shape(init, jax.random.key(0))
        placed = shardings(shapes, mesh)
        self.shapes = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            placed,
        )
        self.init = jax.jit(init, out_shardings=placed)
        self.start = jax.jit(self._state, out_shardings=placed)
        self.step = jax.jit(
            make_step(self.task, self._optimizer, accumulate),
            in_shardings=(placed, batch_sharding(mesh), None),
            out_shardings=(placed, None),
            donate_argnums=0,
        )

    def _state(self, params: dict, key: jax.Array) -> TrainState:
        objectives, model = self.task.objectives, self.task.config
        momentum = queue = None
        if objectives.contrast:
            momentum = nn.momentum_params(params)
        if objectives.contrast and objectives.queue:
            queue_key = jax.random.fold_in(key, 1)
            queue = losses.init_queue(
                objectives.queue, model.embed_dim, queue_key, objectives.queue_random_start
            )
        opt_state = self._optimizer.init(params)
        return TrainState(jax.numpy.zeros((), "int32"), params, momentum, queue, opt_state)


_program = functools.lru_cache(maxsize=4)(Program)


def program(
    model: nn.BlipConfig,
    model_type: str,
    objectives: Objectives,
    settings: ConfigDict,
    accumulate: int,
    mesh: Mesh,
) -> Program:
    """The program of these; one that was made before is compiled no more, as in `bootstrap`.

    Args:
      model_type: what of the model is trained (models.MODEL_TYPES).
      settings: of the optimizer (train/optimizer.py) and its `temperature_scale`.
      accumulate: micro-batches a step.
    """
    return _program(model, model_type, objectives, FrozenConfigDict(settings), accumulate, mesh)


def only_temperature(params: dict) -> dict:
    """A mask: False for all but the temperature."""
    return {
        name: jax.tree.map(lambda _, chosen=name == "temperature": chosen, value)
        for name, value in params.items()
    }
