"""A model that gives NaN is named by every task and capability, and measures nothing."""

import dataclasses

import jax
import numpy as np
import pytest
import task_datasets

from blip_jax.decoding import Decoding
from blip_jax.models import Model
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import (
    CaptioningConfig,
    NlvrConfig,
    RetrievalConfig,
    VisdialConfig,
    VqaConfig,
)
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate

BEAM = Decoding(max_length=16)
IMAGE = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def datasets(world):
    folder = world.folder
    return {
        "human": world.human,
        "questions": task_datasets.questions(folder),
        "pairs": task_datasets.pairs(folder),
        "dialogs": task_datasets.dialogs(folder),
    }


@pytest.fixture(scope="module")
def diverged(model):
    """A function that returns a model of a type, whose numbers are too large."""

    def make(model_type: str) -> Model:
        whole = model(model_type)
        params = jax.tree.map(lambda x: x * np.float32(1e18), whole.params)
        return Model(params, whole.config, whole.tokenizer, model_type=model_type, max_length=24)

    return make


@pytest.mark.parametrize(
    ("task", "model_type", "data", "named"),
    [
        (CaptioningConfig(decoding=BEAM), "captioner", "human", "12 of 12 captions"),
        (RetrievalConfig(), "retrieval", "human", "12 of 12 images"),
        (VqaConfig(), "vqa", "questions", "22 of 22 answers"),
        (VqaConfig(candidates="questions"), "vqa", "questions", "22 of 22 answers"),
        (NlvrConfig(), "nlvr", "pairs", "22 of 22 statements"),
        (VisdialConfig(max_length=24), "dialog", "dialogs", "11 of 11 dialogs"),
    ],
)
def test_nothing_is_measured(datasets, diverged, tmp_path, task, model_type, data, named):
    if isinstance(task, VqaConfig) and task.candidates:
        task = dataclasses.replace(task, candidates=datasets[data])
    config = EvaluateConfig(dataset=datasets[data], split="train", task=task)
    with pytest.raises(UserError) as error:
        evaluate(config, str(tmp_path / "out"), model=diverged(model_type))
    place = f"{datasets[data]}, split train"
    assert str(error.value) == f"the model gives NaN for {named} of {place}; has it diverged?"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model_type", "call"),
    [
        ("captioner", lambda model: model.caption([IMAGE], max_length=16)),
        ("vqa", lambda model: model.answer([IMAGE], "what is it?", ["a dog", "a cat"])),
    ],
)
def test_nothing_is_predicted(diverged, model_type, call):
    with pytest.raises(UserError, match="gives NaN: .*; has it diverged"):
        call(diverged(model_type))
