"""The stages of the circle, one after the other."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from blip_jax.capfilt import mixture, run, storage
from blip_jax.capfilt.bootstrap import results
from blip_jax.capfilt.bootstrap.config import ARMS
from blip_jax.capfilt.bootstrap.stages import Stages
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.mixture import Component
from blip_jax.data.synthetic.builder import ShapesConfig, prepare
from blip_jax.data.synthetic.scenes import World
from blip_jax.data.text import clean_caption
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.decoding import Decoding
from blip_jax.models import load
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.evaluate import evaluate
from blip_jax.train.loop import train


def bootstrap(config: ConfigDict, workdir: str) -> list[dict]:
    """Walks the circle for each seed and writes `workdir/report.html`.

    What is done stays done: the same call again goes on behind the last finished stage, and
    within a training at its newest checkpoint.

    Returns: the rows of the comparison, an arm each.

    Raises:
      UserError: bad config or data. Interrupted: a signal came.
    """
    unknown = sorted(set(config.arms) - set(ARMS))
    if unknown:
        raise UserError(f"unknown arm {unknown[0]!r}; known: {', '.join(ARMS)}")
    workdir = str(epath.Path(workdir).absolute()) if "://" not in workdir else workdir
    # Every arm trains the same program: it is compiled once. Not for several CPU devices: what
    # comes out of the cache runs their collectives out of order, and they wait for ever.
    several = jax.default_backend() == "cpu" and jax.device_count() > 1
    if not jax.config.jax_compilation_cache_dir and not several:
        jax.config.update("jax_compilation_cache_dir", f"{workdir}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    Stages(workdir, _plain(config))
    circles = []
    for seed in config.seeds:
        folder = workdir if len(config.seeds) == 1 else f"{workdir}/seed-{seed}"
        circle = Circle(config, folder, seed)
        circle.walk()
        circles.append(circle)
    return results.write(config, workdir, circles)


class Circle:
    """One seed's run: where its things are, and the stages that make them."""

    def __init__(self, config: ConfigDict, workdir: str, seed: int):
        self.config, self.workdir, self.seed = config, workdir, seed
        self.stages = Stages(workdir, {**_plain(config), "seeds": [seed]})
        self.data: dict[str, str] = {}
        self.found: dict[str, dict] = {}  # an arm's evaluation
        self.kept: dict[str, dict] = {}  # an arm's counts of texts

    def path(self, *names: str) -> str:
        return str(epath.Path(self.workdir).joinpath(*names))

    def walk(self) -> None:
        config, do = self.config, self.stages.do
        # Kept relative to the workdir, so that it can be moved.
        place = lambda: {k: os.path.relpath(v, self.workdir) for k, v in self.prepare().items()}  # noqa: E731
        built = do("data", place, "datasets and tokenizer")
        self.data = {name: config[name] or self.path(path) for name, path in built.items()}
        do("mixture-none", lambda: self.mixture("none", first=True), "all human and web pairs")
        do("pretrain-none", lambda: self.pretrain("none"), "on everything, noise included")
        for task in ("captioner", "filter"):
            do(task, lambda task=task: self.finetune(task), "fine-tuned on human pairs")
        do("capfilt", self.capfilt, "caption every web image, judge every text")
        for arm in config.arms:
            if arm != "none":
                self.kept[arm] = do(f"mixture-{arm}", lambda arm=arm: self.mixture(arm))
                do(f"pretrain-{arm}", lambda arm=arm: self.pretrain(arm), "from scratch")
        self.kept["none"] = {"web": len(open_dataset(self.data["web"], "train")), "synthetic": 0}
        for arm in config.arms:
            self.found[arm] = do(f"evaluate-{arm}", lambda arm=arm: self.evaluate(arm))

    def prepare(self) -> dict[str, str]:
        """The datasets and the tokenizer, by name."""
        config = self.config
        found = {name: config[name] or self.build(name) for name in ("human", "web", "test")}
        tokenizer = config.tokenizer
        if not tokenizer:
            tokenizer = self.path("tokenizer")
            texts = [
                clean_caption(to_text(text))
                for name in ("human", "web")
                for record in open_dataset(found[name], "train")
                for text in record["texts"]
            ]
            # The prompt's words are to be whole, though no text of the data may hold them.
            texts += [config.captioner.prompt] * len(texts)
            train_wordpiece(texts, tokenizer, config.vocab_size)
        return {**found, "tokenizer": tokenizer}

    def build(self, name: str) -> str:
        """A part of the Shapes dataset. The splits share no scene's seed."""
        world = self.config.world
        scenes = World(
            image_size=world.image_size,
            cells=world.cells,
            max_objects=world.max_objects,
            shapes=world.shapes,
            colours=world.colours,
            jitter=world.jitter,
        )
        sizes = {"train": 0, "val": 0, "test": 0}
        if name == "web":
            shape = {
                "train": world.web_images,
                "noise_share": world.noise_share,
                "short_share": world.short_share,
            }
        elif name == "human":
            shape = {"train": world.human_images, "captions_per_image": world.human_captions}
        else:
            shape = {
                self.config.evaluation.split: world.test_images,
                "captions_per_image": world.test_captions,
            }
        kind = "web" if name == "web" else "human"
        settings = ShapesConfig(kind=kind, world=scenes, seed=self.seed, **{**sizes, **shape})
        return prepare(self.path("data"), settings)

    def mixture(self, arm: str, first: bool = False) -> dict[str, int]:
        """Writes the mixture that `arm` trains on; counts of web texts by origin."""
        data, share = self.data, self.config.human_share
        path = self.path("mixtures", f"{arm}.json")
        human = Component(name="human", dataset=data["human"], split="train")
        if first:  # nothing is scored yet
            mixture.write_plain_mixture(path, human, Component("web", data["web"], "train"), share)
            return {}
        columns = storage.read(self.path("scores"), "train")
        origins, filtered = ARMS[arm]
        kept = mixture.keep(columns, origins, self.config.threshold if filtered else None)
        if arm == "random":
            chosen = mixture.keep(columns, origins, self.config.threshold).sum()
            lot = np.random.default_rng(self.seed).permutation(np.flatnonzero(kept))[:chosen]
            kept = np.isin(np.arange(len(kept)), lot)
        source = mixture.Source(data["web"], "train", self.path("scores"))
        return mixture.write_mixture(path, human, source, columns, kept, share)

    def pretrain(self, arm: str) -> None:
        self.train("pretrain", f"pretrain-{arm}", self.path("mixtures", f"{arm}.json"), "")

    def finetune(self, task: str) -> None:
        human_mixture = self.path("mixtures", "human.json")
        human = Component(name="human", dataset=self.data["human"], split="train")
        mixture.write_plain_mixture(human_mixture, human, None, 1.0)
        self.train(task, task, human_mixture, self.path("pretrain-none"))

    def train(self, task: str, name: str, mixture_path: str, init_from: str) -> None:
        config = ConfigDict(self.config[task])
        tokenizer = self.data["tokenizer"]
        config.update(
            tokenizer=tokenizer, mixture=mixture_path, seed=self.seed, init_from=init_from
        )
        train(config, self.path(name))

    def capfilt(self) -> dict[str, Any]:
        options = self.config.capfilt.to_dict()
        sizes = {name: options.pop(name) for name in ("batch_size", "shard_rows")}
        settings = run.Settings(
            dataset=self.data["web"],
            split="train",
            output=self.path("scores"),
            decodings=(Decoding(**options),),
            seed=self.seed,
            **sizes,
        )
        models = [
            {name: (self.path(name), load(self.path(name)))} for name in ("captioner", "filter")
        ]
        run.run(settings, *models)
        return results.judge_scores(settings.output, self.data["web"], self.config.threshold)

    def evaluate(self, arm: str) -> dict[str, float]:
        options = self.config.evaluation
        decoding = Decoding(
            method=options.method, max_length=options.max_length, repetition_penalty=1.0
        )
        return evaluate(
            load(self.path(f"pretrain-{arm}")),
            self.data["test"],
            options.split,
            decoding=decoding,
            gallery=options.gallery,
            rerank=options.rerank,
        )


def _plain(config: ConfigDict) -> Mapping[str, Any]:
    """As JSON would give it back, so that it can be compared with what a workdir keeps."""
    return json.loads(config.to_json_best_effort())
