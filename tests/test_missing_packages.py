"""A package that the end of long work needs is missed at its beginning."""

import sys

import pytest
from test_bootstrap import minute_config
from test_contamination import run_config

from blip_jax.capfilt import bootstrap as boot
from blip_jax.cli import config_files
from blip_jax.comparison import compare
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import captioning, pretraining
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.train import loop

MESSAGE = r'^pycocoevalcap is not installed; run pip install "blip-jax\[metrics\]"'


@pytest.fixture(autouse=True)
def no_caption_metrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)


@pytest.mark.parametrize("task", [CaptioningConfig(), PretrainingConfig()])
def test_before_captions_are_written(world, model, monkeypatch, task):
    monkeypatch.setattr(captioning, "predict_captions", None)
    monkeypatch.setattr(pretraining, "predict_all", None)
    with pytest.raises(UserError, match=MESSAGE):
        evaluate(EvaluateConfig(dataset=world.human, task=task), model=model("pretrain"))


def test_a_model_that_writes_no_captions_needs_none(world, model, tmp_path):
    config = EvaluateConfig(dataset=world.human, task=PretrainingConfig(), limit=4)
    assert "itc/r@1" in evaluate(config, str(tmp_path), model=model("retrieval"))
    assert (tmp_path / "predictions.jsonl").exists()


def test_before_a_training_that_evaluates(world, tmp_path):
    save_mixture(str(tmp_path / "mixture.json"), [Component("human", world.human)])
    changes = {"eval.every": 1, "eval.dataset": world.human, "eval.split": "train"}
    config = run_config(world, tmp_path / "mixture.json", **changes)
    with pytest.raises(UserError, match=MESSAGE):
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_before_a_comparison(tmp_path):
    config, _ = config_files.load("shapes_tasks")
    with pytest.raises(UserError, match=MESSAGE):
        compare(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_before_a_bootstrap(tmp_path):
    with pytest.raises(UserError, match=MESSAGE):
        boot.bootstrap(minute_config(), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
