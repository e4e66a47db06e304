"""What a training run needs before its first step: task, mesh, jitted functions, first state."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from blip_jax.data.mixture import load_mixture
from blip_jax.data.pipeline import train_batches
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.nn.configs import BlipConfig
from blip_jax.runtime.config import replace
from blip_jax.tasks.base import Batch, Task
from blip_jax.train.config import TrainConfig
from blip_jax.train.init_params import load_init_params, load_pretrained_encoders
from blip_jax.train.mesh import batch_sharding, check_batch, local_rows, make_mesh
from blip_jax.train.optimizer import OptimizerConfig
from blip_jax.train.remat import resolve_remat
from blip_jax.train.sharding import compiler_options, place, shardings
from blip_jax.train.state import TrainState
from blip_jax.train.step import Step, make_step


class TrainFunctions(NamedTuple):
    """The jitted functions of a run.

    Attributes:
      state: shapes of the TrainState, with shardings.
      init: key -> state, with fresh parameters.
      init_from_params: (parameters, key) -> state.
      step: (state, batch, key) -> (state, metrics); it consumes the state.
    """

    state: TrainState
    init: jax.stages.Wrapped
    init_from_params: jax.stages.Wrapped
    step: Step


class TrainSetup:
    """A TrainConfig with all that follows from it; nothing is computed yet.

    Args:
      devices: those to train on; None: all, of all processes.
      tokenizer: in place of the config's; to compile, its ids are enough.

    Attributes:
      config, tokenizer, mesh: model.med.vocab_size of the config is the tokenizer's, and
        model.remat "auto" is replaced by what fits.
      task: of the config, bound to the model, the tokenizer and the mesh.
      schedule: learning rate of each step.
      functions: what runs on the devices.

    Raises:
      UserError: settings that do not fit each other or the devices.
    """

    def __init__(
        self,
        config: TrainConfig,
        devices: list | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        self.tokenizer = tokenizer or Tokenizer.load(config.tokenizer, config.text_cleanup)
        self.config = replace(config, **{"model.med.vocab_size": self.tokenizer.ids.vocab_size})
        config = self.config
        self.mesh = make_mesh(dataclasses.asdict(config.mesh), devices)
        self.schedule = config.optimizer.schedule.make(config.steps)
        model = resolve_remat(config.model, self.mesh.devices.flat[0], self.compile_step)
        self.config = replace(config, model=model)
        self.task, self.functions = self._task_and_functions(model)

    def _task_and_functions(self, model: BlipConfig) -> tuple[Task, TrainFunctions]:
        config = self.config
        task = config.task.make(model, self.tokenizer, self.mesh, config.data.augment)
        check_batch(config.batch_size, config.accumulate_steps, task.group_size, self.mesh)
        skip_nonfinite = config.nonfinite.action == "skip"
        return task, _functions(
            task, config.optimizer, config.steps, config.accumulate_steps, skip_nonfinite, self.mesh
        )

    def compile_step(self, model: BlipConfig) -> jax.stages.Compiled:
        """Returns the compiled step of this run for a model in place of the config's."""
        task, functions = self._task_and_functions(model)
        batch = abstract_batch(task, self.config.batch_size, self.mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return functions.step.lower(functions.state, batch, key).compile()

    def init_state(self) -> TrainState:
        """Returns the first state on the mesh; parameters from elsewhere where `init` says so."""
        config, key = self.config, jax.random.key(self.config.seed)
        if config.init.run:
            params = load_init_params(config.init.run, self.task, key)
        elif config.init.vit or config.init.text_encoder:
            params = jax.jit(self.task.init_params)(key)
            params = load_pretrained_encoders(
                params, config.model, config.init.vit, config.init.text_encoder
            )
        else:
            return self.functions.init(key)
        # Moved to the host first, as they are on one device and the state is on the whole mesh.
        return self.functions.init_from_params(jax.device_get(params), key)

    @property
    def rows(self) -> np.ndarray:
        """Returns which rows of a batch this process reads."""
        return local_rows(self.mesh, self.config.batch_size)

    def batches(self, start: int):
        """Returns this process's rows of the batches from number `start` on."""
        config = self.config
        components = load_mixture(config.data.mixture)
        self.task.read_training_data(components)
        return train_batches(
            components,
            self.task,
            config.batch_size,
            rows=self.rows,
            seed=config.seed,
            start=start,
            num_threads=config.data.num_threads,
            prefetch=config.data.prefetch,
        )


def abstract_batch(task: Task, batch_size: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes and shardings of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)
        for name, spec in task.batch_spec(batch_size).items()
    }


@functools.lru_cache(maxsize=4)
def _functions(
    task: Task,
    optimizer_config: OptimizerConfig,
    steps: int,
    accumulate_steps: int,
    skip_nonfinite: bool,
    mesh: Mesh,
) -> TrainFunctions:
    """Returns the jitted functions, cached so that equal settings in a process compile once."""
    optimizer = optimizer_config.make(steps)

    step_of_task = make_step(
        task, optimizer, accumulate_steps, skip_nonfinite, functools.partial(place, mesh)
    )

    def step(state: TrainState, batch: Batch, key: jax.Array | None):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for kernels (fused_attention.py)
            return step_of_task(state, batch, key)

    def make_state(params: dict, key: jax.Array) -> TrainState:
        extra = task.init_extra(params, key)
        return TrainState(jnp.zeros((), "int32"), params, extra, optimizer.init(params))

    def init(key: jax.Array) -> TrainState:
        return make_state(task.init_params(key), key)

    shapes = jax.eval_shape(init, jax.random.key(0))
    placed = shardings(shapes, mesh)
    return TrainFunctions(
        state=jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            placed,
        ),
        init=jax.jit(init, out_shardings=placed),
        init_from_params=jax.jit(make_state, out_shardings=placed),
        step=jax.jit(
            step,
            in_shardings=(placed, batch_sharding(mesh), None),
            out_shardings=(placed, None),
            donate_argnums=0,
            compiler_options=compiler_options(mesh),
        ),
    )
