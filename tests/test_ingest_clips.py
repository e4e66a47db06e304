"""Imports of tables that name video files, and the tasks of clips on what they write."""

import csv
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import video_files
from ingest_fixture import run
from malformed_files import jpeg

from blip_jax.data.fields import questions_of
from blip_jax.data.mixture import Component, RecordSource
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import VideoQaConfig, VideoRetrievalConfig
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate

QUESTIONS = [
    {"video": "a.mp4", "question": "what is shown?", "answer": "a grey wall"},
    {"video": "a.mp4", "question": "which colour?", "answer": "grey"},
    {"video": "b.avi", "question": "what is shown?", "answer": "a corner"},
    {"video": "broken.mp4", "question": "why?", "answer": "no"},
    {"video": "nowhere.mp4", "question": "where?", "answer": "here"},
    {"video": "", "question": "when?", "answer": "now"},
]
WANTED = [
    [("what is shown?", ["a grey wall"]), ("which colour?", ["grey"])],
    [("what is shown?", ["a corner"])],
]
SKIPPED = {"merged with the record before": 1, "missing video": 2, "undecodable video": 1}
CAPTIONS = [
    {"video": "a.mp4", "caption": "it gets brighter"},
    {"video": "a.mp4", "caption": "a grey wall"},
    {"video": "b.avi", "caption": "a corner is white"},
]


@pytest.fixture
def folder(tmp_path):
    """A folder with two clips, one that is broken, and an image."""
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(video_files.make(8))
    (tmp_path / "b.avi").write_bytes(video_files.make(5, format="avi", codec="mpeg4"))
    (tmp_path / "broken.mp4").write_bytes(video_files.make(8)[:700])
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    return tmp_path


def write(path, rows) -> str:
    """Writes a table in the format of the path's ending; returns the path."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(rows):
    return [[(q["question"], q["answers"]) for q in questions_of(row)] for row in rows]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("records_per_unit", [1, 100])
def test_a_table_of_questions_about_clips(folder, ending, records_per_unit):
    source = write(folder / f"x.{ending}", QUESTIONS)
    settings = {"allow_no_text": True, "records_per_unit": records_per_unit}
    manifest, rows, _ = run(folder, source, **settings)
    assert manifest["skipped"] == SKIPPED
    assert asked(rows) == WANTED
    assert len({q["id"] for row in rows for q in questions_of(row)}) == 3
    assert rows[0]["video"].encode("utf-8", "surrogateescape") and "image" not in rows[0]
    lines = (folder / "out" / "skipped.jsonl").read_text().splitlines()
    found = [(line["reason"], line["detail"]) for line in map(json.loads, lines)]
    assert found[0][0] == "undecodable video" and found[0][1].startswith("broken.mp4: ")
    assert found[1:] == [
        ("missing video", "nowhere.mp4: it does not exist"),
        ("missing video", "no bytes and no path"),
    ]


def test_columns_of_other_names_and_clips_inside(folder):
    renamed = [{"file": row["video"], "caption": row["question"]} for row in QUESTIONS]
    source = write(folder / "x.jsonl", renamed)
    _, rows, _ = run(folder, source, "paths", **{"columns.video": "file"})
    assert [row["texts"] for row in rows] == [
        ["what is shown?", "which colour?"],
        ["what is shown?"],
    ]
    inside = [{"video": {"bytes": (folder / name).read_bytes(), "path": name}, "caption": name}
              for name in ("a.mp4", "broken.mp4", "b.avi")]  # fmt: skip
    manifest, again, _ = run(folder, write(folder / "x.parquet", inside), "inside")
    assert [row["sha256"] for row in again] == [row["sha256"] for row in rows]
    assert manifest["skipped"] == {"undecodable video": 1}
    _, copied, _ = run(folder, folder / "inside", "copied")
    assert [(row["sha256"], row["texts"]) for row in copied] == [
        (row["sha256"], row["texts"]) for row in again
    ]


def test_a_column_of_images_comes_first(folder):
    rows = [{"image": "0.jpg", "video": "a.mp4", "caption": "a frame"}]
    _, found, _ = run(folder, write(folder / "x.csv", rows))
    assert "video" not in found[0] and json.loads(found[0]["fields"]) == {"video": "a.mp4"}


def test_answers_of_several_annotators_in_a_table():
    def answers(**fields):
        return questions_of({"key": "k", "fields": json.dumps({"question": "q", **fields})})

    assert answers(answers=["a", "b"])[0]["answers"] == ["a", "b"]
    assert answers(answers="[a")[0]["answers"] == ["[a"]
    merged = [{"question": "r", "answer": "b"}, {"answer": "c"}, 3]
    assert [(q["id"], q["question"], q["answers"]) for q in answers(answer="a", merged=merged)] == [
        ("k#0", "q", ["a", "c"]), ("k#1", "r", ["b"])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([{"film": "a.mp4", "caption": "x"}], {},
         r"^.*x.csv has no image among its fields \(film, caption\); name it with "
         "--config.columns.image=NAME, or that of clips with --config.columns.video=NAME$"),
        ([{"video": "a.mp4", "caption": "x"}], {"columns.video": "film"},
         r"^.*x.csv has no field 'film' \(video, caption\); name it with "
         "--config.columns.video=NAME$"),
        ([{"video": "a.mp4", "question": "x"}], {},
         r"^.*x.csv has no text among its fields \(video, question\); name it with "
         "--config.columns.text=NAME, or do without with --config.allow_no_text=True$"),
        ([{"video": "c.mp4", "caption": "x"}], {},
         "^0 of 1 records can be used: missing video 1; the first: .*; --config.images"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, rows, fields, message):
    with pytest.raises(UserError, match=message):
        run(folder, write(folder / "x.csv", rows), **fields)
    assert not (folder / "out").exists()


def test_clips_and_images_are_no_dataset_together(folder):
    write(folder / "x.csv", CAPTIONS)
    write(folder / "y.csv", [{"image": "0.jpg", "caption": "an image"}])
    with pytest.raises(UserError, match="^config.source has clips and images; import them into"):
        run(folder, f"{folder}/x.csv,{folder}/y.csv")
    assert not list((folder / "out").glob("features.json"))


def test_the_tasks_of_clips_on_tables(folder, world, model, capsys):
    run(folder, write(folder / "x.csv", QUESTIONS), "questions", allow_no_text=True)
    task, loaded = VideoQaConfig(max_length=12, num_frames=2), model("vqa")
    config = EvaluateConfig("", str(folder / "questions"), "train", task=task)
    metrics = evaluate(config, str(folder / "answers"), model=loaded)
    assert metrics["accuracy"].n == 3
    lines = (folder / "answers" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == [q for row in WANTED for q, _ in row]
    records = RecordSource(Component("x", str(folder / "questions")))
    made = task.make(loaded.config, loaded.tokenizer)
    drawn = [made.example(records[0], np.random.default_rng(seed)) for seed in range(6)]
    assert {e["question"] for e in drawn} == {"what is shown?", "which colour?"}

    run(folder, write(folder / "y.csv", CAPTIONS), "captions")
    task = VideoRetrievalConfig(num_frames=2, rerank_k=2)
    config = replace(config, dataset=str(folder / "captions"), task=task)
    metrics = evaluate(config, model=model("retrieval"))
    assert metrics["itm/r@5"] == 100 and metrics["itm/r@1"].n == 2
