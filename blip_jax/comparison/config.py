"""The settings of a comparison of downstream tasks."""

import dataclasses

from blip_jax.data.synthetic.dataset import ShapesDatasetConfig
from blip_jax.runtime.arguments import Seed, check_fields
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint
from blip_jax.tasks.base import TaskConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.video_retrieval import VideoRetrievalConfig
from blip_jax.train.config import TrainConfig
from blip_jax.train.recipes import (
    captioning,
    nlvr,
    pretraining,
    retrieval,
    video_qa,
    visdial,
    vqa,
)

# What is compared: the parameters that a model starts from, and whether it sees images.
ARMS = ("fine-tuned", "scratch", "blank")
FILLED = {"required": False}  # group in which the run sets datasets and models


@dataclasses.dataclass(frozen=True)
class TrainedTask:
    """A task that is trained and evaluated in each arm."""

    dataset: ShapesDatasetConfig = ShapesDatasetConfig()  # its seed is set to that of the run
    train: TrainConfig = dataclasses.field(default=TrainConfig(), metadata=FILLED)
    metric: str = ""  # what the table shows, of the names in metrics.json
    start_from: str = ""  # task whose fine-tuned model it starts from; empty: the pre-training
    # What is compared: fine-tuned (from the pre-training), scratch (from random parameters), blank
    # (from the pre-training, trained and evaluated on grey images).
    arms: tuple[str, ...] = ARMS

    def __post_init__(self):
        check_fields(self)
        _check_arms(self.arms)


@dataclasses.dataclass(frozen=True)
class ZeroShotTask:
    """A task on which the models of another task are evaluated without training."""

    dataset: ShapesDatasetConfig = ShapesDatasetConfig()  # its seed is set to that of the run
    task: TaskConfig = PretrainingConfig()  # what is evaluated
    metric: str = ""  # what the table shows, of the names in metrics.json
    models_of: str = ""  # the other task
    arms: tuple[str, ...] = ("fine-tuned", "scratch")  # which of its models are evaluated

    def __post_init__(self):
        check_fields(self)
        _check_arms(self.arms)


def _check_arms(arms: tuple[str, ...]) -> None:
    for arm in arms:
        if arm not in ARMS:
            raise UserError(f"unknown arm {arm!r}; {hint(arm, ARMS)}")


def trained(kind: str, train: TrainConfig, metric: str, **changes) -> TrainedTask:
    """Returns a task on a kind of Shapes dataset; `changes` by `config.replace`."""
    task = TrainedTask(dataset=ShapesDatasetConfig(kind=kind), train=train, metric=metric)
    return replace(task, **changes)


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Tasks fine-tuned from one pre-training, and the same from scratch and without images.

    Raises:
      UserError: a task is unknown, or starts from one that is not before it.
    """

    title: str = "Downstream tasks on the Shapes dataset"  # title of the report
    seeds: tuple[Seed, ...] = (0, 1, 2)  # of datasets and training; the table has mean and spread
    # What is compared; the last two need PyAV.
    tasks: tuple[str, ...] = (
        "retrieval", "captioning", "vqa", "nlvr", "visdial", "video_retrieval", "video_qa",
    )  # fmt: skip
    # Workdir of a pre-training to start from, whose tokenizer is used; empty: one is made.
    pretrained: str = ""
    vocab_size: int = 400  # number of tokens of the tokenizer that is trained for it
    # Its data, half of each batch from each dataset.
    full_captions: ShapesDatasetConfig = ShapesDatasetConfig(kind="human")
    short_captions: ShapesDatasetConfig = ShapesDatasetConfig(kind="web")
    pretraining: TrainConfig = dataclasses.field(default=pretraining(), metadata=FILLED)
    retrieval: TrainedTask = trained("human", retrieval(), "itm/r@1", arms=ARMS[:2])
    captioning: TrainedTask = trained("human", captioning(), "caption_exact", arms=ARMS[:2])
    vqa: TrainedTask = trained("vqa", vqa(), "accuracy")
    nlvr: TrainedTask = trained("pairs", nlvr(), "accuracy")
    visdial: TrainedTask = trained("dialog", visdial(), "r@1")
    video_retrieval: ZeroShotTask = ZeroShotTask(
        dataset=ShapesDatasetConfig(kind="clips"),
        task=VideoRetrievalConfig(),
        metric="itm/r@1",
        models_of="retrieval",
    )
    video_qa: TrainedTask = trained("clips", video_qa(), "accuracy", start_from="vqa")

    def __post_init__(self):
        check_fields(self)
        for name in ("seeds", "tasks"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; give at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds has a seed twice: {self.seeds}")
        known = [
            field.name
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), TrainedTask | ZeroShotTask)
        ]
        for place, name in enumerate(self.tasks):
            if name not in known:
                raise UserError(f"unknown task {name!r}; {hint(name, known)}")
            task = getattr(self, name)
            before = task.start_from if isinstance(task, TrainedTask) else task.models_of
            if before and before not in self.tasks[:place]:
                raise UserError(f"task {name} needs {before}; give {before} before it in tasks")
