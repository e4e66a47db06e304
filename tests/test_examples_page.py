"""What is said of predictions, which are shown, and the page of examples."""

import base64
import io
import json
import re

import pytest
import task_datasets
import tiny
from PIL import Image

from blip_jax.decoding import Decoding
from blip_jax.reports.examples import write_examples
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import VideoQaConfig, VideoRetrievalConfig
from blip_jax.tasks.details import Details, described, match_details, round_details
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.examples import choose
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig

GREEDY = Decoding(method="greedy", repetition_penalty=1.0, max_length=16)


def details(metric, score=0.0, group=""):
    return Details("in", "out", ["ref"], score, metric, "accuracy", (("key", None),), group)


def test_best_worst_and_random_are_different():
    found = [details(m, s) for m, s in [(1, 0.2), (0, 0.9), (1, 0.8), (0, 0.1), (0.5, 0), (0.5, 1)]]
    chosen = choose([*found, None], 6)[""]
    assert chosen["best"] == [2, 0] and chosen["worst"] == [1, 3]
    assert sorted(chosen["random"]) == [4, 5]
    assert choose([*found, None], 100)[""]["random"] == []  # best and worst have all


def test_the_worst_of_equals_are_those_of_which_the_model_is_least_sure():
    chosen = choose([details(1.0, score) for score in (0.3, 0.1, 0.2, 0.9)], 3)[""]
    assert (chosen["best"], chosen["worst"]) == ([3], [1])


def test_groups_share_the_number_and_unknown_metrics_are_random():
    found = [details(None)] * 5 + [details(1.0, group="captions")] * 5
    chosen = choose(found, 6)
    assert {name: len(rows) for name, rows in chosen[""].items()} == {
        "best": 0, "worst": 0, "random": 3
    }  # fmt: skip
    assert {name: len(rows) for name, rows in chosen["captions"].items()} == {
        "best": 1, "worst": 1, "random": 1
    }  # fmt: skip


def test_a_line_begins_with_what_all_tasks_have():
    line = described({"key": "k", "answer": "out", "score": 3}, details(0.5, 0.25))
    assert line == {
        "key": "k", "input": "in", "prediction": "out", "score": 0.25, "reference": ["ref"],
        "metric": 0.5, "answer": "out",
    }  # fmt: skip
    assert described({"key": "k"}, None) == {"key": "k"}


def test_retrieval_is_scored_by_the_rank_of_the_first_right_candidate():
    records = [{"key": "a", "texts": ["red", "dark"]}, {"key": "b", "texts": ["blue"]}]
    by_image = {"key": "a", "direction": "i2t", "itc": {"top": ["b#0", "a#1"], "scores": [2, 1]}}
    by_text = {"key": "b#0", "direction": "t2i", "itc": {"top": ["b", "a"], "scores": [2, 1]}}
    missing = {"key": "b", "direction": "i2t", "itc": {"top": ["a#0"], "scores": [1]}}
    first, second, third = match_details([by_image, by_text, missing], records)
    assert (first.metric, first.prediction, first.reference) == (
        0.5,
        ["blue", "dark"],
        ["red", "dark"],
    )
    assert [(x.text, x.is_right) for x in first.options] == [("blue", False), ("dark", True)]
    assert (second.metric, second.input, second.images) == (
        1.0,
        "blue",
        (("b", True), ("a", False)),
    )
    assert third.metric == 0.0
    assert match_details([{"key": "a", "caption": "c"}], records) == [None]


def test_a_round_is_scored_by_the_rank_of_the_right_option():
    fields = {
        "caption": "a dog",
        "rounds": [
            {"question": "big?", "answer": "no"},
            {"question": "red?", "options": ["yes", "no", "maybe"], "answer_index": 2},
        ],
    }
    record = {"key": "a", "texts": [], "fields": json.dumps(fields)}
    (found,) = round_details([{"key": "a#2", "scores": [3.0, 1.0, 2.0]}], [record])
    assert found.history == ("a dog", "big? no") and found.prediction == "yes"
    assert (found.metric, found.reference, found.score) == (0.5, ["maybe"], 3.0)
    assert [x.text for x in found.options] == ["yes", "maybe", "no"]


@pytest.mark.parametrize("name", ["vqa", "nlvr", "pretrain"])
def test_evaluate_writes_lines_and_a_page(world, model, tmp_path, name):
    task = {
        "vqa": VqaConfig(max_length=12),
        "nlvr": NlvrConfig(max_length=12),
        "pretrain": PretrainingConfig(max_length=24, rerank_k=2, decoding=GREEDY),
    }[name]
    folder, split = {
        "vqa": lambda: (task_datasets.questions(tmp_path, 6), "train"),
        "nlvr": lambda: (task_datasets.pairs(tmp_path, 6), "train"),
        "pretrain": lambda: (world.human, "test"),
    }[name]()
    out = tmp_path / "out"
    config = EvaluateConfig("", folder, split, task=task, examples=9)
    evaluate(config, str(out), model=model(name), write_page=write_examples)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        assert list(line)[:6] == ["key", "input", "prediction", "score", "reference", "metric"]
    page = (out / "examples.html").read_text()
    assert page.count("<article") == 9
    assert page.count("<section>") == {"vqa": 4, "nlvr": 4, "pretrain": 10}[name]
    assert page.count("where the model looks") == 9
    images = page.count("data:image/png")
    assert images >= {"vqa": 9 + 9 * 5, "nlvr": 18 + 9 * 4, "pretrain": 9 + 9 * 3}[name]
    assert page.count('style="--columns: 2"') == (images - 18 if name == "nlvr" else 0)
    # Of stored predictions there are no maps, and without examples there is no page.
    again = EvaluateConfig(
        "", folder, split, task=task, examples=3, predictions=str(out / "predictions.jsonl")
    )
    evaluate(again, str(tmp_path / "again"), write_page=write_examples)
    page = (tmp_path / "again" / "examples.html").read_text()
    assert page.count("<article") == 3 and "where the model looks" not in page
    assert (tmp_path / "again" / "predictions.jsonl").read_text().splitlines() == [
        json.dumps(line) for line in lines
    ]
    none = EvaluateConfig(
        "", folder, split, task=task, examples=0, predictions=str(out / "predictions.jsonl")
    )
    evaluate(none, str(tmp_path / "none"), write_page=write_examples)
    assert not (tmp_path / "none" / "examples.html").exists()


def test_a_page_of_dialogs_has_maps_of_question_and_answer(world, model, tmp_path):
    folder = task_datasets.dialogs(tmp_path, 4)
    config = EvaluateConfig("", folder, "train", VisdialConfig(max_length=24), examples=3)
    evaluate(config, str(tmp_path / "out"), model=model("dialog"), write_page=write_examples)
    page = (tmp_path / "out" / "examples.html").read_text()
    assert page.count("where the model looks") == 3
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    said = [[re.sub(r"\W", "", line[name]) for name in ("question", "prediction")]
            for line in map(json.loads, lines)]  # fmt: skip
    for card in page.split("<article")[1:]:
        words = "".join(re.findall('alt="heat map of ([^"]*)"', card)).replace("[UNK]", "")
        # A question that is too long for the model has lost its end.
        assert any(words.endswith(a) and q.startswith(words.removesuffix(a)) for q, a in said)


@pytest.mark.parametrize("task", [VideoQaConfig(num_frames=5), VideoRetrievalConfig(num_frames=5)])
def test_a_page_of_clips_shows_frames_and_maps_of_each(world, model, tmp_path, task):
    pytest.importorskip("av")
    folder = task_datasets.clips(tmp_path)
    config = EvaluateConfig("", folder, "train", replace(task, max_length=24), examples=4)
    loaded = model("vqa" if isinstance(task, VideoQaConfig) else "retrieval")
    evaluate(config, str(tmp_path / "out"), model=loaded, write_page=write_examples)
    page = (tmp_path / "out" / "examples.html").read_text()
    assert page.count("where the model looks") == page.count("<article") == 4
    maps = re.findall('--columns: 4"><img src="data:image/png;base64,([^"]*)"', page)
    assert len(maps) >= 4 * 3
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in maps}
    assert sizes == {(4 * tiny.IMAGE, 2 * tiny.IMAGE)}  # five frames, four in a row
    assert "no picture" not in page


def test_a_page_escapes_texts_and_shows_missing_pictures(tmp_path):
    card = {
        "key": "k", "input": "<b>?", "history": [], "prediction": "", "reference": ["x & y"],
        "score": None, "metric": 0.0, "metric_name": "accuracy", "options": [], "maps": [],
        "pictures": [{"key": "k", "is_right": None, "pixels": None}],
    }  # fmt: skip
    path = write_examples(
        f"{tmp_path}/e.html", "T", "S", [{"metric": "a", "value": 1.0}],
        [{"title": "Best", "cards": [card]}],
    )  # fmt: skip
    page = path.read_text()
    assert "&lt;b&gt;?" in page and "x &amp; y" in page and "no picture" in page
    assert "<dt>accuracy</dt><dd>0</dd>" in page and "model's score" not in page


def test_a_negative_number_of_examples_is_refused(world):
    with pytest.raises(UserError, match="examples is -1; it must be 0"):
        EvaluateConfig(dataset=world.human, examples=-1)
