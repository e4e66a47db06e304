"""The stages of a bootstrap run, one after the other."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from blip_jax.capfilt import mixture, run, storage
from blip_jax.capfilt.bootstrap import results
from blip_jax.capfilt.bootstrap.arms import ARMS, Arm
from blip_jax.capfilt.bootstrap.config import BootstrapConfig
from blip_jax.capfilt.bootstrap.results import TRAINING_IMAGES
from blip_jax.capfilt.bootstrap.shapes import shapes_settings
from blip_jax.capfilt.bootstrap.texts import kept_texts
from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import Component
from blip_jax.data.synthetic.builder import prepare
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.data.tokenizer_training import train_tokenizer
from blip_jax.data.vocabulary import training_texts
from blip_jax.models import load
from blip_jax.runtime.config import replace
from blip_jax.runtime.fingerprint import folder_digest
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.stages import Stages
from blip_jax.tasks.captioning import check_caption_metrics
from blip_jax.tasks.contamination import ALLOW, check_contamination
from blip_jax.tasks.evaluate import evaluate
from blip_jax.train.config import TrainConfig
from blip_jax.train.loop import train
from blip_jax.train.training_data import training_dataset

# Fields that do not decide a stage's results; paths are left out because contents are compared.
FREE = ("config.arms", "config.human_dataset", "config.web_dataset", "config.test_dataset",
        "config.tokenizer", "config.title", "config.gallery_images", "config.*.rerank_memory_gib",
        "config.evaluation.allow_training_images")  # fmt: skip


def bootstrap(config: BootstrapConfig, workdir: str) -> list[dict]:
    """Runs all stages for each seed and writes `workdir/report.html`.

    The same call resumes after the last finished stage, and within a training from its newest
    checkpoint. A call with further arms or, where there are several, further seeds does what is
    missing.

    Returns: the rows of the comparison, one for each arm.

    Raises:
      UserError: bad config or data, test images among those to train on, or the workdir holds
        another run. Interrupted: a signal came.
    """
    workdir = str(epath.Path(workdir).absolute()) if "://" not in workdir else workdir
    inputs = digests(config)
    check_test_images(config)
    check_caption_metrics("pretrain")
    with folder_lock(workdir, "bootstrap"):
        runs = []
        if len(config.seeds) > 1:
            Stages(workdir, "bootstrap", config, inputs, (*FREE, "config.seeds"))
        for seed in config.seeds:
            folder = workdir if len(config.seeds) == 1 else f"{workdir}/seed-{seed}"
            runs.append(BootstrapRun(config, folder, seed, inputs))
            runs[-1].run()
        return results.write(config, workdir, runs)


def prepare_datasets(config: BootstrapConfig, workdir: str) -> dict[str, str]:
    """Makes the datasets and the tokenizer of the first seed's run; returns their folders by name.

    Raises:
      UserError: as `bootstrap`.
    """
    with folder_lock(workdir, "prepare"):
        return BootstrapRun(config, workdir, config.seeds[0], digests(config)).prepare()


def digests(config: BootstrapConfig) -> dict[str, str]:
    """Returns digests of the datasets and the tokenizer that a config names.

    Raises:
      UserError: there is no such dataset.
    """
    found = {}
    splits = {"human": "train", "web": "train", "test": config.evaluation.split}
    for name, split in splits.items():
        if dataset := getattr(config, f"{name}_dataset"):
            open_dataset(dataset, split)
            found[name] = folder_digest(dataset)
    for number, dataset in enumerate(config.vocabulary_datasets):
        open_dataset(dataset, "train")
        found[f"vocabulary {number}"] = folder_digest(dataset)
    if config.tokenizer:
        found["tokenizer"] = Tokenizer.load(config.tokenizer, config.text_cleanup).digest
    return found


def check_test_images(config: BootstrapConfig) -> None:
    """Raises a UserError, before anything is trained, if given datasets share test images."""
    given = (("human", config.human_dataset), ("web", config.web_dataset))
    if config.test_dataset:
        evaluation = config.evaluation
        check_contamination(
            [training_dataset(Component(name, dataset)) for name, dataset in given if dataset],
            config.test_dataset,
            evaluation.split,
            evaluation.limit,
            model="this run",
            allow=evaluation.allow_training_images,
            field=f"--config.evaluation.{ALLOW}",
        )


class BootstrapRun:
    """The run of one seed: its paths and stages."""

    def __init__(self, config: BootstrapConfig, workdir: str, seed: int, inputs: Mapping[str, str]):
        self.config, self.workdir, self.seed = config, workdir, seed
        own = dataclasses.replace(config, seeds=(seed,))
        self.stages = Stages(workdir, "bootstrap", own, inputs, FREE)
        self.data: dict[str, str] = {}
        self.found: dict[str, dict] = {}  # an arm's evaluation
        self.kept: dict[str, dict] = {}  # an arm's counts of texts
        self.measured: dict[str, dict] = {}  # a filter's quality, by `Arm.scores_suffix`

    def path(self, *names: str) -> str:
        return str(epath.Path(self.workdir).joinpath(*names))

    def run(self) -> None:
        """Runs the stages that are not done yet."""
        config, run_stage = self.config, self.stages.run_stage
        # Stored relative to the workdir, so that it can be moved.
        datasets = lambda: {k: os.path.relpath(v, self.workdir) for k, v in self.prepare().items()}  # noqa: E731
        built = run_stage("data", datasets, "datasets and tokenizer")
        self.data = {name: self.given(name) or self.path(path) for name, path in built.items()}
        self.kept["none"] = {"web": len(open_dataset(self.data["web"], "train")), "synthetic": 0}
        run_stage("mixture-none", lambda: self.mixture("none"), "all human and web pairs")
        run_stage("pretrain-none", lambda: self.pretrain("none"), "on everything, noise included")
        self.run_capfilt(ARMS["both"])
        for name in config.arms:
            self.run_arm(name)
        for name in config.arms:
            self.found[name] = run_stage(f"evaluate-{name}", lambda name=name: self.evaluate(name))

    def run_arm(self, name: str) -> None:
        """Pre-trains an arm, after the arms that it starts from; once."""
        if name in self.kept:
            return
        arm = ARMS[name]
        if arm.needs_scores:
            for base in arm.bases:
                self.run_arm(base)
            self.run_capfilt(arm)
        if arm.continues:
            self.run_arm(arm.continues)
        start = f"from {arm.continues}" if arm.continues else "from scratch"
        kept = self.stages.run_stage(f"mixture-{name}", lambda: self.mixture(name))
        self.stages.run_stage(f"pretrain-{name}", lambda: self.pretrain(name), start)
        self.kept[name] = kept

    def run_capfilt(self, arm: Arm) -> None:
        """Fine-tunes the captioners and filters of an arm, and scores the web dataset; once."""
        if arm.scores_suffix in self.measured:
            return
        run_stage = self.stages.run_stage
        tasks = ("captioner_and_filter",) if arm.shared else ("captioner", "filter")
        for base, task in itertools.product(arm.bases, tasks):
            tune = functools.partial(self.fine_tune, task, arm, base)
            run_stage(arm.model_folder(task, base), tune, "fine-tuned on human pairs")
        note = "caption every web image, score every text"
        self.measured[arm.scores_suffix] = run_stage(
            f"capfilt{arm.scores_suffix}", lambda: self.capfilt(arm), note
        )

    def given(self, name: str) -> str:
        """Returns the dataset ("human", "web", "test") or "tokenizer" of the config; "": none."""
        config = self.config
        return config.tokenizer if name == "tokenizer" else getattr(config, f"{name}_dataset")

    def prepare(self) -> dict[str, str]:
        """Returns the folders of the datasets and the tokenizer by name; makes missing ones."""
        config = self.config
        found = {name: self.given(name) or self.build(name) for name in ("human", "web", "test")}
        tokenizer = config.tokenizer
        if not tokenizer:
            tokenizer = self.path("tokenizer")
            datasets = (found["human"], found["web"], *config.vocabulary_datasets)
            cleanup = config.text_cleanup or "blip"
            texts = list(training_texts(datasets, cleanup=cleanup))
            # The prompt's words should be tokens even if no text of the data has them.
            texts += [config.captioner.task.lm.prompt] * len(texts)
            settings = config.vocab_size, config.tokenizer_type, cleanup
            train_tokenizer(texts, tokenizer, *settings)
        return {**found, "tokenizer": tokenizer}

    def build(self, name: str) -> str:
        """Makes a Shapes dataset and returns its folder."""
        settings = shapes_settings(self.config, name, self.seed)
        return prepare(self.path("data"), settings)

    def mixture(self, name: str) -> dict[str, int]:
        """Writes the mixture that an arm trains on; returns its counts of texts by origin."""
        data, share = self.data, self.config.human_fraction
        path = self.path("mixtures", f"{name}.json")
        human = Component(name="human", dataset=data["human"], split="train")
        arm = ARMS[name]
        if arm.perfect:
            web = Component("web", self.build("perfect"), "train")
            mixture.write_plain_mixture(path, human, web, share)
            return {"web": 0, "synthetic": 0}
        if arm.origins and not arm.needs_scores:
            split = "train" if arm.web_half < 0 else ("train[:50%]", "train[50%:]")[arm.web_half]
            web = Component("web", data["web"], split)
            mixture.write_plain_mixture(path, human, web, share)
            return {"web": len(open_dataset(data["web"], split)), "synthetic": 0}
        scores = self.path(f"scores{arm.scores_suffix}")
        table = storage.read(scores, "train")
        kept = kept_texts(arm, table, self.config.threshold, self.seed)
        source = mixture.ScoredDataset(data["web"], "train", scores)
        return mixture.write_mixture(path, human, source, table, kept, share)

    def pretrain(self, name: str) -> None:
        arm, config = ARMS[name], self.config.pretraining
        if arm.sharing:
            config = replace(config, **{"model.med.sharing": arm.sharing})
        start = self.path(f"pretrain-{arm.continues}") if arm.continues else ""
        self.train(config, f"pretrain-{name}", self.path("mixtures", f"{name}.json"), start)

    def fine_tune(self, task: str, arm: Arm, base: str) -> None:
        human_mixture = self.path("mixtures", "human.json")
        human = Component(name="human", dataset=self.data["human"], split="train")
        mixture.write_plain_mixture(human_mixture, human, None, 1.0)
        start, config = self.path(f"pretrain-{base}"), getattr(self.config, task)
        if arm.perturbed_share and task != "captioner":
            config = replace(config, **{"task.itm.perturbed_share": arm.perturbed_share})
        self.train(config, arm.model_folder(task, base), human_mixture, start)

    def train(self, config: TrainConfig, name: str, mixture_path: str, init_run: str = "") -> None:
        config = replace(
            config,
            tokenizer=self.data["tokenizer"],
            text_cleanup=self.config.text_cleanup,
            seed=self.seed,
            **{"data.mixture": mixture_path, "init.run": init_run},
        )
        train(config, self.path(name))

    def capfilt(self, arm: Arm) -> dict[str, Any]:
        config = replace(self.config.capfilt, dataset=self.data["web"], seed=self.seed)
        if arm.decoding_methods:
            config = replace(config, decoding_methods=arm.decoding_methods)
        scoring = config.scoring(self.path(f"scores{arm.scores_suffix}"))
        folders = [[arm.model_folder(role, base) for base in arm.bases]
                   for role in ("captioner", "filter")]  # fmt: skip
        models = functools.partial(load_models, self.workdir, folders)
        run.run(scoring, *models(), beam_config=config.beam, load_models=models)
        return results.measure_filter(scoring.output, self.data["web"], self.config.threshold)

    def evaluate(self, arm: str) -> dict[str, float]:
        config = replace(
            self.config.evaluation,
            model=self.path(f"pretrain-{arm}"),
            dataset=self.data["test"],
        )
        metrics = evaluate(config)
        marks = {getattr(value, TRAINING_IMAGES, 0) for value in metrics.values()}
        return metrics | {TRAINING_IMAGES: max(marks)} if any(marks) else metrics


def load_models(workdir: str, folders: Sequence[Sequence[str]]) -> list[dict]:
    """Returns for each role its models by name, as `capfilt.run` takes them.

    Args:
      folders: names of folders in `workdir`, of the captioners and of the filters.
    """
    paths = [{name: f"{workdir}/{name}" for name in names} for names in folders]
    return [{name: (path, load(path)) for name, path in role.items()} for role in paths]
