"""Evaluation says in one line why it cannot measure, and two do not write into one folder."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
import tiny_dataset

from blip_jax.cli.main import main
from blip_jax.data.synthetic.builder import make_record
from blip_jax.decoding import Decoding
from blip_jax.metrics.captioning import caption_scores
from blip_jax.models import Model
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.runtime.lock import folder_lock
from blip_jax.tasks import captioning, eval_dataset
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig

GREEDY = Decoding(method="greedy", repetition_penalty=1.0, max_length=16)
RANKING = (
    '{"key": "a", "direction": "i2t", "gallery": 0, '
    '"itc": {"hit@1": 1, "hit@5": 1, "hit@10": 1, %s}}'
)


@pytest.fixture(scope="module")
def textless(world):
    records = [{**make_record(row, "train", tiny_dataset.WEB), "texts": []} for row in range(3)]
    return tiny_dataset.write(f"{world.folder}/textless", records)


def refusal(tmp_path, config, model) -> str:
    with pytest.raises(UserError) as error:
        evaluate(config, str(tmp_path / "out"), model=model)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    return str(error.value)


@pytest.mark.parametrize("task", [RetrievalConfig(), CaptioningConfig(), PretrainingConfig()])
def test_images_without_any_text(textless, model, tmp_path, task):
    config = EvaluateConfig(dataset=textless, split="train", task=task)
    found = refusal(tmp_path, config, model("pretrain"))
    assert found == f"no text in {textless}, split train; evaluate on images with texts"


@pytest.mark.parametrize(
    ("task", "model_type", "named"),
    [
        (PretrainingConfig(), "vqa", "a pretraining task measures nothing of a vqa model; give"),
        (PretrainingConfig(), "features", "measures nothing of a features model"),
        (RetrievalConfig(), "captioner", "a captioner model cannot encode; load a"),
        (RetrievalConfig(), "aligned", "a aligned model cannot match; load a"),
        (CaptioningConfig(), "retrieval", "a retrieval model cannot caption; load a"),
    ],
)
def test_a_model_that_the_task_cannot_measure(world, model, tmp_path, task, model_type, named):
    config = EvaluateConfig(dataset=world.human, task=task)
    assert named in refusal(tmp_path, config, model(model_type))


def test_a_captioner_that_has_diverged(world, model, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", 2)
    whole = model("captioner")
    params = dict(whole.params)
    params["vit"] = jax.tree.map(lambda x: x * np.nan, params["vit"])
    broken = Model(params, whole.config, whole.tokenizer, model_type="captioner", max_length=24)
    task = CaptioningConfig(decoding=GREEDY)
    found = refusal(tmp_path, EvaluateConfig(dataset=world.human, task=task), broken)
    assert found.startswith("the model gives NaN for 10 of 10 captions of ")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("[" * 100_000, "expected a JSON object with a 'key'"),
        ('{"key": 5}', "its key is not text"),
        ('{"key": "a", "caption": null}', "its caption is not text"),
        ('{"key": "a#1", "scores": [0.5, [1]]}', "its scores are not a list of numbers"),
        ('{"key": "a", "direction": "up", "gallery": 0}', "expected a direction"),
        ('{"key": "a", "direction": "i2t"}', "expected a direction"),
        ('{"key": "a", "direction": "i2t", "gallery": 0, "itc": []}', "its itc has no hit@1"),
        (
            '{"key": "a", "direction": "i2t", "gallery": 0, "itm": {"hit@1": NaN, "hit@5": 1, '
            '"hit@10": 1}}',
            "its itm has no hit@1",
        ),
        ('{"key": "a", "scores": [1, true]}', "its scores are not a list of numbers"),
        ('{"key": "a", "scores": [1%s, 2]}' % ("0" * 400), "its scores are not a list of numbers"),
        (RANKING % '"top": [5], "scores": [1]', "its itc has not a list of texts as top"),
        (RANKING % '"top": ["a"], "scores": [1, 2]', "its itc has not a list of texts as top"),
    ],
)
def test_a_malformed_prediction_is_named(world, tmp_path, line, named):
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"key": "a", "caption": "b"}\n' + line + "\n")
    config = EvaluateConfig(dataset=world.human, predictions=str(file))
    with pytest.raises(UserError, match=f"line 2 is not a prediction: {named}") as error:
        evaluate(config)
    assert "\n" not in str(error.value)


def test_predictions_of_other_images_measure_nothing(world, tmp_path):
    file = tmp_path / "predictions.jsonl"
    for content in ('{"key": "elsewhere", "caption": "b"}\n', ""):
        file.write_text(content)
        config = EvaluateConfig(dataset=world.human, predictions=str(file))
        with pytest.raises(UserError, match="has no prediction of an image of .*, split test, "):
            evaluate(config)
    file.write_bytes(b"\xff\xfea")
    with pytest.raises(UserError, match="cannot be read"):
        evaluate(config)


def test_a_line_end_within_a_prediction_is_none(world, tmp_path):
    """JSON may hold U+2028 as it is, which is no line end there."""
    pytest.importorskip("pycocoevalcap")
    key = make_record(0, "test", tiny_dataset.HUMAN)["key"]
    file = tmp_path / "predictions.jsonl"
    line = json.dumps({"key": key, "caption": "a\u2028dog"}, ensure_ascii=False)
    file.write_text(line + "\n", encoding="utf-8")
    assert "bleu4" in evaluate(EvaluateConfig(dataset=world.human, predictions=str(file)))


def test_truth_that_is_no_scene_is_not_measured(tmp_path):
    pytest.importorskip("pycocoevalcap")
    for truth in ("true", "[true]", '{"scene": 5}', '{"scene": {"objects": []}}'):
        record = {"key": "a", "texts": ["a dog"], "truth": truth}
        found = captioning.evaluate_captions([{"key": "a", "caption": "a dog"}], [record])
        assert found == caption_scores(["a dog"], [["a dog"]])


def test_two_evaluations_do_not_write_into_one_folder(world, model, tmp_path):
    config = EvaluateConfig(dataset=world.human, task=RetrievalConfig())
    with folder_lock(tmp_path, "evaluate"), pytest.raises(UserError, match="is in use by process"):
        evaluate(config, str(tmp_path), model=model("retrieval"))
    assert os.listdir(tmp_path) == []


def test_a_negative_limit_is_refused(world, tmp_path, capsys):
    argv = ["evaluate", f"--workdir={tmp_path}", f"--config.dataset={world.human}"]
    assert main([*argv, "--config.model=x", "--config.limit=-1"]) == 2
    assert "limit is -1; it must be 0 (all) or more" in capsys.readouterr().err
    assert dataclasses.replace(EvaluateConfig(), limit=0).limit == 0


def test_the_folder_of_a_training_is_refused(world, model, tmp_path):
    check_fingerprint(tmp_path, "train", {}, begun=False)
    config = EvaluateConfig(dataset=world.human, task=RetrievalConfig())
    with pytest.raises(UserError, match="holds a run of blip-jax train; choose another folder"):
        evaluate(config, str(tmp_path), model=model("retrieval"))
