"""Downstream tasks learned from a pre-training, from scratch and without images."""

import dataclasses
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import conftest
import numpy as np
import pytest
from PIL import Image

from blip_jax.cli import config_files
from blip_jax.comparison import ComparisonConfig, compare
from blip_jax.comparison.chance import predict_by_chance, retrieval_chance
from blip_jax.comparison.config import TrainedTask
from blip_jax.data.datasets import open_dataset
from blip_jax.runtime.config import replace, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import CaptioningConfig, NlvrConfig, RetrievalConfig, VisdialConfig, VqaConfig
from blip_jax.train.logger import read_metrics

STEPS = 2


@pytest.fixture(scope="module")
def config():
    config, _ = config_files.load("shapes_tasks")
    settings = {"steps": STEPS, "batch_size": 8, "optimizer.schedule.warmup_steps": 1}
    changes = {f"pretraining.{name}": value for name, value in settings.items()}
    for name in ("full_captions", "short_captions"):
        changes[f"{name}.train"] = 40
    for task in config.tasks:
        if isinstance(getattr(config, task), TrainedTask):
            changes |= {f"{task}.train.{name}": value for name, value in settings.items()}
        changes |= {f"{task}.dataset.{split}": 24 for split in ("train", "val", "test")}
    # Without these two losses the step compiles in a fifth of the time.
    changes |= {"pretraining.task.itc": None, "pretraining.task.itm": None}
    return replace(config, seeds=(0,), tasks=("vqa",), **changes)


def run(config: ComparisonConfig, workdir: pathlib.Path) -> str:
    """Runs the verb in a process with one device, which compiles fastest; returns its stderr."""
    (workdir / "config.json").write_text(json.dumps(to_json(config)))
    code = (
        "import json, sys; from blip_jax.comparison import ComparisonConfig, compare; "
        "from blip_jax.runtime.config import from_json; "
        "settings = json.load(open(sys.argv[1])); "
        "compare(from_json(ComparisonConfig, settings), sys.argv[2])"
    )
    env = {**os.environ, "XLA_FLAGS": conftest.QUICK}
    command = [sys.executable, "-c", code, str(workdir / "config.json"), str(workdir / "run")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    run(config, folder)
    return folder / "run", json.loads((folder / "run" / "results.json").read_text())["rows"]


def test_a_task_is_compared_with_scratch_and_blank_images(finished):
    workdir, rows = finished
    assert [row["task"] for row in rows] == ["VQA"]
    assert rows[0]["metric"] == "accuracy" and rows[0]["steps"] == STEPS
    assert 10 < rows[0]["chance"] < 60
    stored = json.loads((workdir / "results.json").read_text())
    for arm in ("fine-tuned", "scratch", "blank"):
        assert rows[0][arm] == stored["metrics"][f"vqa/{arm}/seed-0"]["accuracy"]
        assert len(read_metrics(str(workdir / "vqa" / f"{arm}-0" / "metrics.jsonl"))["loss"]) > 0
    # Weights of the first two start from elsewhere than those of "scratch".
    starts = {
        arm: json.loads((workdir / "vqa" / f"{arm}-0" / "config.json").read_text())["init"]["run"]
        for arm in ("fine-tuned", "scratch", "blank")
    }
    assert starts["scratch"] == "" and starts["fine-tuned"] == starts["blank"] != ""
    assert "| VQA" in (workdir / "table.md").read_text()
    report = (workdir / "report.html").read_text()
    assert "VQA: accuracy" in report and str(workdir) not in report


def test_the_blank_arm_sees_grey_images_with_the_same_questions(finished):
    workdir, _ = finished
    mixtures = [workdir / "vqa" / f"{arm}-0-mixture.json" for arm in ("fine-tuned", "blank")]
    found = []
    for mixture in mixtures:
        path = json.loads(mixture.read_text())["components"][0]["dataset"]
        found.append(list(open_dataset(path, "train")))
    for record, blank in zip(*found, strict=True):
        assert record["fields"] == blank["fields"] and record["key"] == blank["key"]
        pixels = [np.asarray(Image.open(io.BytesIO(x["image"]))) for x in (record, blank)]
        assert pixels[0].std() > 0 and pixels[1].std() == 0


def test_tasks_are_added_to_a_finished_comparison(config, finished):
    workdir, rows = finished
    stages = {path: path.read_bytes() for path in workdir.glob("**/stages/*.json")}
    more = replace(config, tasks=("vqa", "captioning"), **{"captioning.arms": ("fine-tuned",)})
    messages = run(more, workdir.parent)
    again = json.loads((workdir / "results.json").read_text())["rows"]
    assert again[0] == rows[0] and again[1]["task"] == "captioning"
    assert again[1]["blank"] is None and again[1]["scratch"] is None
    assert all(path.read_bytes() == content for path, content in stages.items())
    assert "[pretrain] already done" in messages


def test_other_settings_are_refused(config, finished):
    workdir, _ = finished
    with pytest.raises(UserError, match=r"config.train.steps was 2, now 3"):
        compare(replace(config, **{"vqa.train.steps": 3}), str(workdir))
    with pytest.raises(UserError, match=r"config.vocab_size was 400, now 300"):
        compare(replace(config, vocab_size=300), str(workdir))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("vqa", "nlvr2")}, "unknown task 'nlvr2'.*nlvr"),
        ({"tasks": ()}, "tasks is empty"),
        ({"seeds": (1, 1)}, "seeds has a seed twice"),
        ({"vqa.arms": ("blanc",)}, "unknown arm 'blanc'.*blank"),
        ({"tasks": ("vqa",), "vqa.start_from": "nlvr"}, "vqa needs nlvr"),
    ],
)
def test_settings_that_cannot_be_run(changes, message):
    with pytest.raises(UserError, match=re.compile(message)):
        replace(ComparisonConfig(), **changes)


def record(number, texts=(), **fields):
    return {"key": str(number), "texts": list(texts), "fields": json.dumps(fields)}


def question(key, template, answers):
    return {"id": key, "question": "?", "template": template, "answers": answers}


def test_chance_is_the_most_frequent_answer_of_a_template():
    train = [
        record(0, questions=[question("a", "colour", ["red", "red", "blue"])]),
        record(1, questions=[question("b", "colour", ["blue"]), question("c", "size", ["big"])]),
        record(2, questions=[question("d", "size", ["small", "small"])]),
        record(3, questions=[question("e", "colour", ["red"])]),
    ]
    test = [record(9, questions=[question("x", "size", []), question("y", "colour", [])])]
    assert predict_by_chance(VqaConfig(), train, test) == [
        {"key": "x", "answer": "small"},
        {"key": "y", "answer": "red"},
    ]


def test_chance_of_statements_dialogs_and_captions():
    labels = [True, False, False]
    train = [record(i, statements=[{"statement": "s", "label": x}]) for i, x in enumerate(labels)]
    test = [record(7, statements=[{"id": "t", "statement": "s", "label": True}])]
    assert predict_by_chance(NlvrConfig(), train, test) == [{"key": "t", "answer": False}]

    asked = {"question": "?", "template": "colour", "options": ["red", "blue", "big"]}
    train = [
        record(i, rounds=[{**asked, "answer": x}]) for i, x in enumerate(["red", "red", "blue"])
    ]
    found = predict_by_chance(VisdialConfig(), train, [record(5, rounds=[asked])])
    assert found == [{"key": "5#1", "scores": [2.0, 1.0, 0.0]}]

    train, test = [record(0, ["a", "b"])], [record(1), record(2), record(3)]
    found = predict_by_chance(CaptioningConfig(), train, test)
    assert [p["caption"] for p in found] == ["a", "b", "a"]
    assert predict_by_chance(RetrievalConfig(), train, test) == []


def test_chance_of_retrieval_is_the_expected_recall_of_a_random_order():
    records = [record(0, "abcd"), record(1, "e"), record(2)]
    # Of 5 texts 4 and 1 are right for the two images that have any; of 3 images one for each text.
    expected = 100 * ((4 / 5 + 1 / 5) / 2 + 1 / 3) / 2
    assert retrieval_chance(records) == pytest.approx(expected)


def test_every_task_has_a_metric(config):
    for name in config.tasks:
        assert getattr(dataclasses.replace(config), name).metric
