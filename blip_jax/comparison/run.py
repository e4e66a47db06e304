"""The stages of a comparison: data, pre-training, then each task of each seed in each arm."""

import dataclasses
import functools
from typing import Any

from etils import epath

from blip_jax.checkpoints.workdir import load_state_items
from blip_jax.comparison import results
from blip_jax.comparison.chance import predict_by_chance, retrieval_chance
from blip_jax.comparison.config import ComparisonConfig, TrainedTask, ZeroShotTask
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.data.synthetic.builder import prepare
from blip_jax.data.synthetic.dataset import ShapesDatasetConfig
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.data.vocabulary import training_texts
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.numbers import is_number
from blip_jax.runtime.stages import Stages
from blip_jax.tasks.base import TaskConfig
from blip_jax.tasks.captioning import PROMPT, check_caption_metrics
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate, read_records, scoring_task
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.config import TrainConfig
from blip_jax.train.loop import train

SPLIT = "test"  # what the table is of; settings are chosen on val


def compare(config: ComparisonConfig, workdir: str) -> list[dict]:
    """Runs all stages and writes `workdir/results.json` and `workdir/report.html`.

    The same call resumes after the last finished stage, and within a training from its newest
    checkpoint. Seeds and tasks may be added to a finished comparison; a tokenizer that was trained
    for it keeps its words.

    Returns: the rows of the table, one for each task.

    Raises:
      UserError: bad config, or the workdir holds another run. Interrupted: a signal came.
    """
    workdir = str(epath.Path(workdir).absolute()) if "://" not in workdir else workdir
    if "captioning" in config.tasks:  # told now, not after hours of training
        check_caption_metrics("captioner")
    with folder_lock(workdir, "compare"):
        run = ComparisonRun(config, workdir)
        run.prepare()
        for seed in config.seeds:
            for name in config.tasks:
                run.run_task(name, seed)
        return results.write(config, workdir, run)


class ComparisonRun:
    """A comparison in a workdir: its paths and stages."""

    def __init__(self, config: ComparisonConfig, workdir: str):
        self.config, self.workdir = config, workdir
        names = ("pretrained", "vocab_size", "full_captions", "short_captions", "pretraining")
        shared = {name: getattr(config, name) for name in names}
        self.stages = Stages(workdir, "compare", shared, {})
        # Stages of its own for each task, so that tasks can be added and changed one by one.
        self.task_stages = {
            name: Stages(self.path(name), "compare", getattr(config, name), {})
            for name in config.tasks
        }
        self.pretrained = config.pretrained or self.path("pretrain")
        self.found: dict[tuple[str, str, int], dict[str, Any]] = {}  # by task, arm and seed

    def path(self, *names: str) -> str:
        return str(epath.Path(self.workdir).joinpath(*names))

    def prepare(self) -> None:
        """Trains the tokenizer and the pre-training, or checks the one that is given."""
        if given := self.config.pretrained:
            try:
                check_scheme(given)
                load_state_items(given, ())
            except UserError as error:
                raise UserError(f"config.pretrained: {error}") from error
            return
        note = "on the texts of all tasks"
        self.stages.run_stage("tokenizer", self.train_tokenizer, note)
        self.stages.run_stage("pretrain", self.pretrain, "on true captions")

    def dataset(self, settings: ShapesDatasetConfig, seed: int | None = None, **changes) -> str:
        """Returns the folder of a dataset, which is made unless it is there."""
        if seed is not None:
            changes["seed"] = seed
        settings = dataclasses.replace(settings, **changes)
        return prepare(self.path("data"), settings.builder_config(), settings.workers)

    def train_tokenizer(self) -> None:
        config, seed = self.config, self.config.seeds[0]
        datasets = [self.dataset(config.full_captions), self.dataset(config.short_captions)]
        tasks = (getattr(config, name) for name in config.tasks)
        datasets += [self.dataset(task.dataset, seed) for task in tasks]
        texts = list(training_texts(list(dict.fromkeys(datasets))))
        # The prompt's words should be tokens even if no text of the data has them.
        texts += [PROMPT] * len(texts)
        train_wordpiece(texts, self.path("tokenizer"), config.vocab_size)

    def pretrain(self) -> None:
        config = self.config
        components = [
            Component("full", self.dataset(config.full_captions)),
            Component("short", self.dataset(config.short_captions)),
        ]
        self.train(config.pretraining, self.path("pretrain"), components)

    def train(
        self, config: TrainConfig, folder: str, components: list[Component], **changes: Any
    ) -> None:
        mixture = f"{folder}-mixture.json"
        save_mixture(mixture, components)
        given = self.config.pretrained
        tokenizer = f"{given}/tokenizer" if given else self.path("tokenizer")
        train(replace(config, tokenizer=tokenizer, **{"data.mixture": mixture}, **changes), folder)

    def run_task(self, name: str, seed: int) -> None:
        """Runs the arms of a task with one seed, and its chance level."""
        task, stages = getattr(self.config, name), self.task_stages[name]
        run_arm = self.zero_shot if isinstance(task, ZeroShotTask) else self.train_and_evaluate
        works = {arm: functools.partial(run_arm, name, task, arm, seed) for arm in task.arms}
        works["chance"] = functools.partial(self.chance, task, seed)
        for arm, work in works.items():
            stage = f"{arm}-seed-{seed}"
            found = stages.run_stage(stage, work, name)
            if not all(isinstance(x, float) or is_number(x) for x in found.values()):
                path = self.path(name, "stages", f"{stage}.json")
                raise UserError(
                    f"{path} has a metric that is no number; delete it and rerun the same command"
                )
            self.found[name, arm, seed] = found

    def train_and_evaluate(
        self, name: str, task: TrainedTask, arm: str, seed: int
    ) -> dict[str, float]:
        dataset = self.dataset(task.dataset, seed, blank_images=arm == "blank")
        start = "" if arm == "scratch" else self.pretrained
        if arm == "fine-tuned" and task.start_from:
            start = self.path(task.start_from, f"fine-tuned-{seed}")
        folder = self.path(name, f"{arm}-{seed}")
        self.train(task.train, folder, [Component(name, dataset)], seed=seed, **{"init.run": start})
        # A blank image for training is the same as one for testing.
        return self.evaluate(task.train.task, folder, dataset, allow_training_images=arm == "blank")

    def zero_shot(self, name: str, task: ZeroShotTask, arm: str, seed: int) -> dict[str, float]:
        dataset = self.dataset(task.dataset, seed)
        return self.evaluate(task.task, self.path(task.models_of, f"{arm}-{seed}"), dataset)

    def evaluate(
        self, task: TaskConfig, model: str, dataset: str, **options: Any
    ) -> dict[str, float]:
        if isinstance(task, VqaConfig):
            task = dataclasses.replace(task, candidates=dataset)
        config = EvaluateConfig(model=model, dataset=dataset, split=SPLIT, task=task, **options)
        return {metric: float(value) for metric, value in evaluate(config).items()}

    def chance(self, task: TrainedTask | ZeroShotTask, seed: int) -> dict[str, float]:
        dataset = self.dataset(task.dataset, seed)
        evaluated = task.task if isinstance(task, ZeroShotTask) else task.train.task
        train, test = read_records(dataset, "train"), read_records(dataset, SPLIT)
        predictions = predict_by_chance(evaluated, train, test)
        if not predictions:
            return {task.metric: retrieval_chance(test)}
        metrics = scoring_task(evaluated).evaluate(predictions, test)
        return {metric: float(value) for metric, value in metrics.items()}
