"""The Colab notebook: it runs from a fresh kernel, and each output is what its cell says."""

import importlib.util
import json
import re

import notebook
import numpy as np
import pytest
from test_notebook_results import cells

from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.fields import questions_of
from blip_jax.data.synthetic.oracle import assess_texts

nbformat = pytest.importorskip("nbformat")
jupytext = pytest.importorskip("jupytext")
TEXT, HTML, PNG = "text/plain", "text/html", "image/png"


def output(found, code: str, kind: str) -> str:
    """The result of the cell whose code has this line."""
    (cell,) = (cell for cell in found.cells if code in cell.source.splitlines())
    return next(x.data[kind] for x in cell.outputs if kind in x.get("data", {}))


def test_the_notebook_is_its_source_with_outputs():
    stored, source = nbformat.read(notebook.NOTEBOOK, 4), jupytext.read(notebook.SOURCE)
    nbformat.validate(stored)
    assert [(x.cell_type, x.source) for x in stored.cells] == [
        (x.cell_type, x.source) for x in source.cells
    ]
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [x.output_type for cell in code for x in cell.outputs]
    assert "error" not in kinds and kinds.count("execute_result") > 10
    text = json.dumps([cell.outputs for cell in code])
    assert not re.search(r"(?<![\w/])/(tmp|root|home|work)/", text)
    assert notebook.NOTEBOOK.stat().st_size < 1_500_000


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder in which the notebook ran, and the notebook with its outputs."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("colab")
    return folder / "runs" / "colab", notebook.execute(str(folder))


@pytest.fixture(scope="module")
def scenes(executed):
    """The records of the test split of the captions."""
    found = [
        open_dataset(str(path.parent), "test")
        for path in executed[0].glob("data/shapes/human-*/*/features.json")
        if list(path.parent.glob("*-test.*"))
    ]
    return found[0]


@pytest.mark.slow
def test_captions_are_of_the_grammar_and_true(executed, scenes):
    head, *rows = cells(output(executed[1], "captions", HTML))
    assert head == ["", "caption", "probability"] and len(rows) == 6
    truth = [to_text(scenes[row]["truth"]) for row in range(6)]
    found = assess_texts([row[1] for row in rows], truth)
    assert found["caption_truth"].sum() >= 4
    assert all(row[0] == "IMAGE" and 0 < float(row[2]) <= 1 for row in rows)
    sampled = [row[-2] for row in cells(output(executed[1], "sampled", HTML))[1:]]
    assert len(sampled) == 9 and len(set(sampled)) > 3


@pytest.mark.slow
def test_the_true_text_matches_best(executed):
    rows = cells(output(executed[1], "match", HTML))[1:]
    probability = [float(row[-2]) for row in rows]
    assert len(rows) == 6 and np.argmax(probability) == 0 and probability[0] > 0.5
    table = cells(output(executed[1], "similarities", HTML))
    similarity = np.array([[float(x) for x in row[1:]] for row in table[1:]])
    assert similarity.shape == (6, 6) and (similarity.argmax(1) == np.arange(6)).sum() >= 5


@pytest.mark.slow
def test_heat_maps_are_pictures(executed):
    shown = output(executed[1], "heat", HTML)
    words = re.findall("<figcaption>(.*?)<", shown)
    assert len(words) > 4 and shown.count("data:image/png;base64,") == len(words)
    assert output(executed[1], "heat.picture().resize((256, 256))", PNG)


@pytest.mark.slow
def test_answers_are_of_the_annotators(executed):
    rows = cells(output(executed[1], "answers", HTML))[1:]
    records = open_dataset(str(executed[0] / "data_questions"), "test")
    asked = [questions_of(records[row])[0] for row in range(6)]
    assert [row[1] for row in rows] == [x["question"] for x in asked]
    assert sum(row[2] in x["answers"] for row, x in zip(rows, asked, strict=True)) >= 4
    metrics = {row[0]: float(row[1]) for row in cells(output(executed[1], "metrics", HTML))[1:]}
    assert metrics["accuracy"] > 60  # of texts alone about a third


@pytest.mark.slow
def test_ten_pictures_are_learnt(executed):
    rows = cells(output(executed[1], "learnt", HTML))[1:]
    assert len(rows) == 10 and not any(row[1] == row[2] for row in rows)
    assert sum(row[1] == row[3] for row in rows) >= 8


@pytest.mark.slow
def test_the_gallery_has_kept_and_removed_texts(executed):
    shown = output(executed[1], "gallery", HTML)
    rows = [row[-4:] for row in cells(shown)[1:]]
    kept = [row[3] == "kept" for row in rows]
    assert len(rows) == 24 and 4 < sum(kept) < 24 and shown.count("<img ") == 12
    assert all((float(row[2]) >= 0.5) == keep for row, keep in zip(rows, kept, strict=True))
    assert {row[0] for row in rows} == {"web", "synthetic"}
    assert shown.count("line-through") == 4 * (24 - sum(kept))
    assert (executed[0] / "selected" / "report" / "index.html").exists()
    # What is kept of the web is mostly true, what is removed mostly is not.
    (folder,) = executed[0].glob("data/shapes/web-*/*/features.json")
    web = open_dataset(str(folder.parent), "train")
    scenes = {}
    for row in range(len(web)):
        scenes.setdefault(to_text(web[row]["texts"][0]), to_text(web[row]["truth"]))
    of_web = [(row[1], keep) for row, keep in zip(rows, kept, strict=True) if row[0] == "web"]
    true = assess_texts([x for x, _ in of_web], [scenes[x] for x, _ in of_web])["caption_truth"]
    assert (true == [keep for _, keep in of_web]).mean() >= 0.75


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
def test_pytorch_gives_the_same_log_probabilities(executed):
    text = "".join(x.get("text", "") for cell in executed[1].cells for x in cell.get("outputs", []))
    found = re.search(r"largest difference of the log-probabilities: (\S+)", text)
    assert float(found[1]) < 1e-4
