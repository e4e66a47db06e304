"""METEOR and SPICE: METEOR by Java, SPICE by a stand-in, and one line for what is missing."""

import shutil

import pytest

from blip_jax.metrics import captioning, java_captioning
from blip_jax.metrics.java_captioning import java_caption_scores
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.captioning import evaluate_captions

pytest.importorskip("pycocoevalcap")
CAPTIONS = ["a red circle", "two stars"]
REFERENCES = [["a red circle", "one circle"], ["two green stars"]]
RECORDS = [{"key": str(i), "texts": texts} for i, texts in enumerate(REFERENCES)]
PREDICTIONS = [{"key": str(i), "caption": text} for i, text in enumerate(CAPTIONS)]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A function that puts the body of `compute_score` of METEOR and SPICE in place of Java."""

    def write(body):
        for name in ("meteor", "spice"):
            folder = tmp_path / "pycocoevalcap" / name
            folder.mkdir(parents=True)
            (folder / "__init__.py").touch()
            lines = [
                f"class {name.capitalize()}:",
                "    def compute_score(self, truth, found):",
                *(f"        {line}" for line in body.splitlines()),
            ]
            (folder / f"{name}.py").write_text("\n".join(lines))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(java_captioning, "_missing", lambda name: "")

    return write


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="no Java")
def test_meteor_of_equal_captions_is_100():
    scores, _ = java_caption_scores(["A red | circle!", "stars"], [["a red circle"], ["stars"]])
    assert scores["meteor"] == pytest.approx(100)
    assert scores["meteor"].n == 2 and scores["meteor"].standard_error is None


def test_scores_are_read_and_what_java_prints_is_not_shown(library, capfd):
    library(
        "print('Parsing reference captions', truth, found)\n"
        "values = [len(found[key][0].split()) / 10 for key in sorted(found)]\n"
        "return sum(values) / len(values), [{'All': {'f': value}} for value in values]"
    )
    scores, reasons = java_caption_scores(CAPTIONS, REFERENCES)
    assert scores == pytest.approx({"meteor": 25, "spice": 25}) and reasons == {}
    assert scores["spice"].standard_error == pytest.approx(5)  # of 30 and 20
    assert capfd.readouterr() == ("", "")


def test_a_java_that_fails_is_named_in_one_line(library, capfd):
    library(
        "import sys\nprint('Exception in thread main: no class\\n  at edu', file=sys.stderr)\n"
        "raise ValueError('status 1')"
    )
    found = evaluate_captions(PREDICTIONS, RECORDS, java_metrics=True)
    assert found == captioning.caption_scores(CAPTIONS, REFERENCES)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2
    assert lines[1] == (
        "metric spice is left out: it failed (Exception in thread main: no class); it needs Java 8"
    )


def test_without_java_the_others_still_come(monkeypatch, capfd):
    monkeypatch.setenv("PATH", "")
    records = [{**record, "fields": '{"domain": "near-domain"}'} for record in RECORDS]
    found = evaluate_captions(PREDICTIONS, records, java_metrics=True)
    assert {"cider", "near-domain/cider"} <= set(found) and "meteor" not in found
    lines = capfd.readouterr().err.splitlines()
    reason = "is left out: java is not on the PATH; install a Java runtime"
    assert lines == [f"metric meteor {reason}", f"metric spice {reason}"]
    assert evaluate_captions(PREDICTIONS, records) == found
    assert capfd.readouterr().err == ""


def test_spice_without_its_models_is_not_started(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java_captioning, "_SPICE_JARS", ("models-9.jar",))
    named = "models-9.jar is missing; download it with python -m pycocoevalcap.spice.get_stanford"
    assert java_captioning._missing("spice").startswith(named)
    assert java_captioning._missing("meteor") == ""


def test_what_is_no_caption_is_named():
    assert java_caption_scores([], []) == ({}, {})
    with pytest.raises(UserError, match="image 0 has no reference caption"):
        java_caption_scores(["a"], [["..."]])
