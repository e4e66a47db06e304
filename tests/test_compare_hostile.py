"""A comparison whose workdir holds damaged files, or texts that are code: one line, or a report."""

import json
import math
import os
import shutil

import pytest

from blip_jax.cli import config_files
from blip_jax.comparison import compare
from blip_jax.comparison.run import ComparisonRun
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError

EVIL = "<script>alert(1)</script>\u202e\x1b[31m&\0"
LOG = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n'
DEEP = "[" * 100_000
NAME = "vqa/stages/fine-tuned-seed-0.json"


def made(workdir, metrics=None, **changes):
    """(config, workdir) of a comparison of which all stages are recorded as done."""
    config, _ = config_files.load("shapes_tasks")
    config = replace(config, seeds=(0,), tasks=("vqa",), **changes)
    run = ComparisonRun(config, str(workdir))
    for name in ("tokenizer", "pretrain"):
        run.stages.run_stage(name, lambda: None)
    for arm in (*config.vqa.arms, "chance"):
        stage = f"{arm}-seed-0"
        run.task_stages["vqa"].run_stage(stage, lambda: metrics or {"accuracy": 50.0})
        (workdir / "vqa" / f"{arm}-0").mkdir()
        (workdir / "vqa" / f"{arm}-0" / "metrics.jsonl").write_text(LOG)
    return config, workdir


@pytest.fixture
def finished(tmp_path):
    return made(tmp_path / "run")


def refusal(config, workdir) -> str:
    with pytest.raises(UserError) as error:
        compare(config, str(workdir))
    line = str(error.value)
    assert "\n" not in line and len(line) < 400
    return line


def test_code_in_texts_is_escaped(tmp_path, capsys):
    config, workdir = made(tmp_path / "run", title=EVIL)
    compare(config, str(workdir))
    page = (workdir / "report.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\x1b[31m&amp;\\x00" in page
    said = "".join(capsys.readouterr())
    for text in (page, said, (workdir / "table.md").read_text()):
        assert not {"\u202e", "\x1b", "\0"}.intersection(text) and "<script>alert" not in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_metrics_that_are_not_finite_are_shown_as_such(tmp_path, value):
    config, workdir = made(tmp_path / "run", {"accuracy": value})
    (row,) = compare(config, str(workdir))
    assert str(row["fine-tuned"]) == str(value)
    stored = json.loads((workdir / "results.json").read_text())
    assert stored["rows"][0]["fine-tuned"] is None
    assert "<script>" not in (workdir / "report.html").read_text()


def test_a_metric_that_is_missing_is_left_out(tmp_path):
    config, workdir = made(tmp_path / "run", {"another": 1.0})
    assert compare(config, str(workdir))[0]["fine-tuned"] is None


@pytest.mark.parametrize("value", [EVIL, [1, 2], {"a": 1}, None, True, 10**400])
def test_a_metric_that_is_no_number_is_named(tmp_path, value):
    line = refusal(*made(tmp_path / "run", {"accuracy": value}))
    assert line.endswith(f"{NAME} has a metric that is no number; delete it and rerun the same "
                         "command")  # fmt: skip


def nan_seconds(text):
    return json.dumps({**json.loads(text), "seconds": math.nan})


@pytest.mark.parametrize(
    "content", ["", "\0", "[]", "{}", DEEP, '{"name": "fine-tuned-seed-0"}', nan_seconds]
)
def test_a_damaged_record_of_a_stage_is_named(finished, content):
    config, workdir = finished
    marker = workdir / NAME
    marker.write_text(content if isinstance(content, str) else content(marker.read_text()))
    line = refusal(config, workdir)
    assert str(marker) in line and line.endswith("; delete it and rerun the same command")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize("name", [NAME, "vqa/fine-tuned-0/metrics.jsonl"])
def test_what_is_no_file(finished, capsys, name, kind):
    """A pipe would be waited for without end."""
    config, workdir = finished
    (workdir / name).unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(workdir / name)
    if name == NAME:
        assert str(workdir / name) in refusal(config, workdir)
    else:
        compare(config, str(workdir))
        assert f"the report lacks a curve: {workdir / name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [None, b"\xff\xfe\0", b"[1]\n", DEEP.encode() + b"\n", b'{"loss": 1}\n',
     b'{"step": 1, "loss": "<script>\x1b"}\n', b'{"step": 1, "loss": NaN}\n',
     b'{"step": 1e999, "loss": 1}\n', b'{"step": "a"}\n'],
)  # fmt: skip
def test_the_table_is_written_without_a_curve(finished, capsys, content):
    config, workdir = finished
    path = workdir / "vqa" / "scratch-0" / "metrics.jsonl"
    path.unlink() if content is None else path.write_bytes(content)
    assert compare(config, str(workdir))[0]["scratch"] == 50.0
    page, err = (workdir / "report.html").read_text(), capsys.readouterr().err
    whole = content is None or content.endswith(b"\n")  # else a crash has cut the line
    assert ("the report lacks a curve: " in err and str(path) in err) == whole
    assert "\x1b" not in page + err and "<script>" not in page


@pytest.mark.parametrize("folder", ["", "vqa/"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"values": 3}', DEEP, "train"])
def test_a_fingerprint_of_another_verb_or_damaged(finished, folder, content):
    config, workdir = finished
    path = workdir / f"{folder}fingerprint.json"
    if content == "train":
        path.write_text(path.read_text().replace('"compare"', '"train"'))
        assert "holds a run of blip-jax train; choose another" in refusal(config, workdir)
        return
    path.write_text(content)
    assert f"{path} is damaged" in refusal(config, workdir)


@pytest.mark.parametrize("folder", ["", "vqa"])
def test_a_file_in_place_of_a_folder(finished, folder):
    config, workdir = finished
    shutil.rmtree(workdir / folder)
    (workdir / folder).write_text("x")
    assert str(workdir) in refusal(config, workdir)


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "a pipe", "no checkpoint", "URL"])
def test_a_pretraining_that_is_none_is_refused_first(tmp_path, kind):
    path = tmp_path / "pretrained"
    if kind == "a file":
        path.write_text("x")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.mkdir()
    elif kind == "no checkpoint":
        (path / "checkpoints" / EVIL.replace("/", "").replace("\0", "")).mkdir(parents=True)
    given = "https://example.org/x" if kind == "URL" else str(path)
    config = replace(config_files.load("shapes_tasks")[0], pretrained=given)
    line = refusal(config, tmp_path / "run")
    assert line.startswith("config.pretrained: ") and given in line
    assert not (tmp_path / "run" / "data").exists()
