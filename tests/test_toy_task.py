"""A task of its own in one file: it trains, resumes and evaluates with no edit elsewhere.

It learns from an image how many objects the Shapes dataset has drawn in it.
"""

import dataclasses
import json
import os
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_dataset

from blip_jax.data.images import ImageError, decode, normalize
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.metrics import uncertainty
from blip_jax.models.functions import hidden_states_function
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted
from blip_jax.tasks.base import InvalidRecord, Task, TaskConfig
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.train import loop
from blip_jax.train.config import TrainConfig
from blip_jax.train.logger import Logger
from blip_jax.train.optimizer import Constant

STEPS = 6


@dataclasses.dataclass(frozen=True)
class CountingConfig(TaskConfig):
    """Counting objects."""

    model_type: ClassVar[str] = "features"

    max_length: int = 8  # tokens of a text; none is read
    decay: float = 0.9  # of the running mean of counts, for each step

    def make(self, model, tokenizer, mesh=None, augment=None):
        return Counting(self, model, tokenizer, mesh, augment)


class Counting(Task):
    """Squared error of the count, which is read off the mean of the image's [CLS] token.

    It keeps the running mean of all counts in the state, and learns the difference from it.
    """

    primary_metric = "within_one"

    def example(self, record, rng):
        if not record.get("truth"):
            raise InvalidRecord("missing field")
        try:
            image = self.transform(decode(record["image"]), rng)
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error
        return {"image": image, "count": count_of(record)}

    def empty_example(self):
        size = self.model.vit.image_size
        return {"image": np.zeros((size, size, 3), np.uint8), "count": 0}

    def collate(self, examples):
        return {
            "image": np.stack([example["image"] for example in examples]),
            "count": np.array([example["count"] for example in examples], np.float32),
        }

    def batch_spec(self, batch_size):
        size = self.model.vit.image_size
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
            "count": jax.ShapeDtypeStruct((batch_size,), np.float32),
            "valid": jax.ShapeDtypeStruct((batch_size,), bool),
        }

    def init_extra(self, params, key):
        return {"mean": jnp.float32(0)}

    def prepare(self, params, extra, batch, step, key):
        number = jnp.maximum(batch["valid"].sum(), 1)
        mean = (batch["count"] * batch["valid"]).sum() / number
        decay = self.config.decay
        extra = {"mean": decay * extra["mean"] + (1 - decay) * mean}
        return (number, extra["mean"]), extra

    def loss(self, params, batch, constants, rows, key):
        number, mean = constants
        tokens = self.apply(params, "encode_image", normalize(batch["image"]), key=key)
        error = tokens[:, 0].mean(-1) + mean - batch["count"]
        loss = (batch["valid"] * error**2).sum() / number
        return loss, {"loss": loss}

    def predict(self, model, dataset):
        (tokens,) = dataset.share(hidden_states_function(model, ("image",)), dataset.images)
        return [
            {"key": record["key"], "count": float(value)}
            for record, value in zip(dataset.records, tokens[:, 0].mean(-1), strict=True)
        ]

    def evaluate(self, predictions, records):
        counts = {record["key"]: count_of(record) for record in records}
        error = np.abs([x["count"] - counts[x["key"]] for x in predictions])
        return {"within_one": uncertainty.mean(error <= 1, 100), "error": float(error.mean())}


def count_of(record):
    return len(json.loads(record["truth"])["scene"]["objects"])


def toy_config(**changes):
    config = TrainConfig(task=CountingConfig(), model=tiny.config(med={"dropout": 0.1}))
    settings = {"optimizer.schedule": Constant(1e-2), "mesh.data": 4, "mesh.fsdp": 2} | changes
    return replace(config, batch_size=8, steps=STEPS, log_every=1, **settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = tiny_dataset.build(tmp_path_factory.mktemp("world"))
    components = [Component("human", world.human), Component("web", world.web)]
    save_mixture(f"{world.folder}/mixture.json", components)
    return world


@pytest.fixture
def config(world):
    return toy_config(
        tokenizer=f"{world.folder}/tokenizer",
        **{
            "data.mixture": f"{world.folder}/mixture.json", "checkpoints.every": 2,
            "checkpoints.keep_best": "primary", "eval.every": 3, "eval.split": "test",
            "eval.dataset": world.human,
        },
    )  # fmt: skip


def test_it_trains_resumes_and_evaluates(world, config, tmp_path, monkeypatch):
    traced = replace(config, profile="1:2")
    whole = jax.device_get(loop.train(traced, str(tmp_path / "whole")))
    assert list((tmp_path / "whole" / "profile").glob("**/*.xplane.pb"))
    assert set(whole.extra) == {"mean"} and 1 < whole.extra["mean"] / (1 - 0.9**STEPS) < 4

    log = Logger.log

    def interrupt(self, step, metrics):
        log(self, step, metrics)
        if step == 4:
            monkeypatch.undo()
            os.kill(os.getpid(), 2)

    monkeypatch.setattr(Logger, "log", interrupt)
    with pytest.raises(Interrupted, match="stopped at step 4; rerun the same command to resume"):
        loop.train(config, str(tmp_path / "resumed"))
    resumed = jax.device_get(loop.train(config, str(tmp_path / "resumed")))
    for got, want in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(got, want)

    # The evaluations of steps 3 and 6, by the task's own metrics, and the same by `evaluate`.
    for name in ("whole", "resumed"):
        workdir = tmp_path / name
        lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
        evaluated = {x["step"]: x for x in lines if "eval/within_one" in x}
        assert list(evaluated) == [3, STEPS]
        folder = workdir / "evaluation" / str(STEPS)
        stored = json.loads((folder / "metrics.json").read_text())
        assert stored["within_one"]["n"] == 10 and stored["error"]["n"] is None
        metrics = {name: entry["value"] for name, entry in stored.items()}
        assert metrics["error"] == evaluated[STEPS]["eval/error"]
        predictions = (folder / "predictions.jsonl").read_text().splitlines()
        values = {step: line["eval/within_one"] for step, line in evaluated.items()}
        best = max(values, key=lambda step: (values[step], step))  # of equals the later one
        kept = {str(best), str(STEPS)}
        assert {path.name for path in (workdir / "checkpoints").iterdir()} == kept
        assert len(predictions) == 10 and set(json.loads(predictions[0])) == {"key", "count"}
    settings = EvaluateConfig(model=str(workdir), dataset=world.human, task=config.task)
    assert evaluate(settings) == pytest.approx(metrics, rel=1e-5)
    stored = dataclasses.replace(settings, predictions=str(folder / "predictions.jsonl"))
    assert evaluate(stored) == metrics


def test_what_it_cannot_use_is_counted(world, config, tmp_path, capsys):
    records = [{**make, "truth": ""} for make in tiny_dataset_records()]
    directory = tiny_dataset.write(str(tmp_path / "data"), records)
    save_mixture(str(tmp_path / "mixture.json"), [Component("no truth", directory)])
    changes = {"data.mixture": str(tmp_path / "mixture.json"), "eval.every": 0}
    config = replace(config, steps=1, **changes, **{"checkpoints.keep_best": ""})
    with pytest.raises(UserError, match=r"all 8 records so far were skipped \(missing field 8\)"):
        loop.train(config, str(tmp_path / "run"))
    both = [Component("no truth", directory), Component("human", world.human)]
    save_mixture(str(tmp_path / "mixture.json"), both)
    loop.train(config, str(tmp_path / "other"))
    assert re.search(r"skipped [1-7] records: missing field", capsys.readouterr().err)


def tiny_dataset_records():
    return [tiny_dataset.make_record(row, "train", tiny_dataset.HUMAN) for row in range(3)]
