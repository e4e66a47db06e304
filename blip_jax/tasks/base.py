"""What a task is: its fields, its data, its loss, its predictions, its metrics.

B rows of a global batch, b of a micro-batch. The order inside a training step (train/step.py):

    params = task.constrain(params)
    constants, extra = task.prepare(params, extra, batch, step, key)     # whole batch, no gradient
    grads = sum of grad(task.loss)(params, micro_batch, constants, rows, key) over micro-batches
    params, opt_state = optimizer(grads)

Because `prepare` sees the whole batch and computes every normaliser once, accumulated gradients
equal those of the batch in one piece.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blip_jax import nn
from blip_jax.data.augment import AugmentConfig
from blip_jax.data.pipeline import SKIP_REASONS, InvalidRecord
from blip_jax.runtime.arguments import Positive, check_fields
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.starting_params import Params, fill, resized_positions

if TYPE_CHECKING:
    from blip_jax.data.mixture import Component
    from blip_jax.models import Model
    from blip_jax.tasks.details import Details
    from blip_jax.tasks.eval_dataset import EvalDataset

__all__ = [
    "SKIP_REASONS",
    "Batch",
    "EvaluationTask",
    "Extra",
    "InvalidRecord",
    "Params",
    "Prediction",
    "Task",
    "TaskConfig",
]

Extra = dict[str, Any]  # pytree that the task owns in the state; {} if none
Batch = dict[str, jax.Array]  # every array has leading axis B
Prediction = dict[str, Any]  # JSON values; "key" names the record
C = TypeVar("C", bound="TaskConfig")


@dataclasses.dataclass(frozen=True)
class TaskConfig(abc.ABC):
    """A task's hyper-parameters: one frozen dataclass a task, a comment for each field.

    `make` is the only way to a Task, so that no registry of names is needed: a config file builds
    the config object, training calls `config.task.make(...)`.
    """

    model_type: ClassVar[str]  # of nn.MODEL_TYPES, the type of a trained model
    num_frames: ClassVar[int] = 0  # of a clip; 0: the task's records have images

    max_length: Positive = 30  # tokens of a text; longer texts are truncated

    def __post_init__(self):
        check_fields(self, "task.")

    @property
    def name(self) -> str:
        """Returns the task's name in messages and metadata: "pretraining" of PretrainingConfig."""
        return type(self).__name__.removesuffix("Config").lower()

    @abc.abstractmethod
    def make(
        self,
        model: nn.BlipConfig,
        tokenizer: Any,
        mesh: Mesh | None = None,
        augment: AugmentConfig | None = None,
    ) -> "Task":
        """Returns the task for a network.

        Args:
          tokenizer: a `Tokenizer`; for programs that are only compiled, its ids are enough.
          mesh: devices that the step runs on; None: wherever its arrays are.
          augment: of training images; None: BLIP's.
        """


class EvaluationTask(abc.ABC):
    """What a loaded model is evaluated on: predictions of records, and their metrics."""

    primary_metric: str = ""  # metric of checkpoints.keep_best=primary; "": none

    def check_packages(self, model_type: str) -> None:  # noqa: B027 (tasks may override it)
        """Raises a UserError if `evaluate` needs a package for this type of model that is missing.

        Called before long work: a training, or predictions. By default no package is needed.
        """

    @abc.abstractmethod
    def predict(self, model: "Model", dataset: "EvalDataset") -> list[Prediction]:
        """Returns the predictions: one a record, or one a query.

        Work is shared among processes by `dataset.share`, and all get all predictions. They hold
        JSON values only: this is predictions.jsonl.
        """

    @abc.abstractmethod
    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns metrics of predictions, without a model or a device.

        `blip-jax evaluate --config.predictions=FILE` calls this alone. A value may be an `Estimate`
        (metrics/uncertainty.py), a float that has the number of its examples and its standard
        error: the table and metrics.json show them.
        """

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> "Sequence[Details | None]":
        """Returns what predictions.jsonl and examples.html say of each prediction; None: nothing.

        By default nothing: lines are the predictions as they are, and there is no page.
        """
        return [None] * len(predictions)

    def submission(self, predictions: Sequence[Prediction]) -> Any | None:
        """Returns what the benchmark's evaluation server takes, JSON values; None: it has none."""
        return None


class Task(EvaluationTask, Generic[C]):
    """A TaskConfig bound to a network, a tokenizer and a mesh.

    Attributes:
      config, model, tokenizer, mesh: as given to `TaskConfig.make`.
      network: the Flax module of `config.model_type`.
      transform: augmentation of training images.
      group_size: neighbouring rows that must be in one micro-batch (ITM's negatives); 1: any.
        Divides B.
      record_fields: fields that a dataset must have to be trained on.
    """

    group_size: int = 1
    record_fields: tuple[str, ...] = ("key", "image")

    def __init__(
        self,
        config: C,
        model: nn.BlipConfig,
        tokenizer: Any,
        mesh: Mesh | None = None,
        augment: AugmentConfig | None = None,
    ):
        self.config, self.model, self.tokenizer, self.mesh = config, model, tokenizer, mesh
        self.network = nn.network(model, config.model_type)
        self.transform = (augment or AugmentConfig()).transform(model.vit.image_size)
        if config.max_length > model.med.max_length:
            raise UserError(
                f"task.max_length is {config.max_length}, model.med.max_length "
                f"{model.med.max_length}; the model's must be at least as large"
            )

    @property
    def program_key(self) -> tuple:
        """Returns what the device functions depend on; tasks of one key share compiled steps."""
        return type(self), self.config, self.model, self.mesh

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self.program_key == other.program_key

    def __hash__(self) -> int:
        return hash(self.program_key)

    # On the host: NumPy, in grain's threads

    def read_training_data(self, components: "Sequence[Component]") -> None:
        """Reads what examples need to know of all of a training mixture; by default nothing."""

    @abc.abstractmethod
    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Returns one record, decoded and augmented; all randomness comes from `rng`.

        Raises:
          InvalidRecord: the record cannot be used; it is counted by its reason.
        """

    @abc.abstractmethod
    def empty_example(self) -> dict[str, Any]:
        """Returns an example to use for an invalid record: right shapes, no content.

        The pipeline marks its row as not valid.
        """

    @abc.abstractmethod
    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Returns arrays [b, ...] with the shapes of `batch_spec`, texts tokenised.

        Without "valid", which the pipeline adds.
        """

    @abc.abstractmethod
    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a batch, "valid" bool [B] included."""

    # On devices: traced under jit; shardings come from the caller

    def init_params(self, key: jax.Array) -> Params:
        """Returns fresh parameters of the network."""
        return nn.init(self.model, key, self.config.model_type)

    def adapt_params(self, params: Params, source: nn.BlipConfig, fresh: Params) -> Params:
        """Returns parameters to start from, made of those of another run. Host side.

        By default the part that `fresh` has, with positions resized to its image size. A
        temperature, which Hugging Face's folders lack, starts anew.

        Args:
          params, source: of the other run.
          fresh: shapes of this task's parameters; those that the result has are made at random.

        Raises:
          KeyError: the other run lacks a part; it names the part.
        """
        own = resized_positions(params, self.model)
        return fill(fresh, own, is_new=lambda name: name == "temperature")

    def init_extra(self, params: Params, key: jax.Array) -> Extra:
        """Returns what the task keeps in the state in addition to the parameters."""
        return {}

    def constrain(self, params: Params) -> Params:
        """Returns the parameters that a step uses: each within its allowed range."""
        return params

    def move_momentum(self, params: Params, extra: Extra) -> Extra:
        """Returns `extra` with momentum weights moved towards a step's parameters, if it has any.

        The first thing in a step, and for each number by itself.
        """
        return extra

    def prepare(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        step: jax.Array,
        key: jax.Array | None,
    ) -> tuple[Any, Extra]:
        """Returns (constants, extra), once a step, of the whole batch and without gradient.

        Counts to divide by are taken here. What all devices need whole goes through
        `self.replicate`. `constants` is any pytree.

        By default the number of rows that count, for a loss that is a mean over rows.
        """
        return batch["valid"].sum(), extra

    @abc.abstractmethod
    def loss(
        self,
        params: Params,
        batch: Batch,
        constants: Any,
        rows: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns this micro-batch's part of the summed loss, and of each metric.

        "loss" is among the metrics.

        Args:
          rows: int32 [b], the position of these rows in the whole batch.
          key: None: no dropout.
        """

    def flops(self, batch_size: int) -> int:
        """Returns FLOPs of one training step by formula (nn/flops.py); 0: unknown."""
        return 0

    def replicate(self, tree: Any) -> Any:
        """Returns a tree of arrays with a copy on every device of the mesh."""
        if self.mesh is None:
            return tree
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(tree, whole)

    def apply(
        self, params: Params, method: str, *args: Any, key: jax.Array | None = None, **kwargs: Any
    ) -> Any:
        """Returns `method` of the network; with a key in train mode (dropout, drop path)."""
        if key is not None:
            kwargs.update(train=True, rngs={"dropout": key})
        return self.network.apply({"params": params}, *args, method=method, **kwargs)
