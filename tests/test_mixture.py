"""Mixtures: what their components are, which records they have, and what is refused."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from given_dataset import write

from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import Component, RecordSource, load_mixture, save_mixture
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.runtime.errors import UserError

HUMAN = ShapesConfig(kind="human", train=30, val=0, test=10)
WEB = ShapesConfig(kind="web", train=50, val=0, test=0)
SCORES = {
    "key": tfds.features.Text(),
    "status": tfds.features.Text(),
    "texts": tfds.features.Sequence(
        {"text": tfds.features.Text(), "p_match": tfds.features.Scalar(np.float32)}
    ),
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Directories of two datasets."""
    folder = str(tmp_path_factory.mktemp("data"))
    return prepare(folder, HUMAN), prepare(folder, WEB)


def scored(tmp_path, keys=None):
    rows = [make_record(i, "train", HUMAN)["key"] for i in range(30)] if keys is None else keys
    texts = [
        [{"text": f"{side} {i}", "p_match": 0.5} for side in ("web", "new")] for i in range(30)
    ]
    records = [
        {"key": key, "status": "ok", "texts": text} for key, text in zip(rows, texts, strict=False)
    ]
    return write(tmp_path / "scores", records, SCORES)


def test_a_mixture_selects_texts_of_a_scored_dataset(datasets, tmp_path):
    human, web = datasets
    scores = scored(tmp_path)
    np.save(tmp_path / "kept.npy", np.array([[4, 1], [29, 0], [4, 0]], np.int32))
    relative = str(pathlib.Path(scores).relative_to(tmp_path))
    mixture = str(tmp_path / "mixture.json")
    save_mixture(
        mixture,
        [Component("kept", human, scores=relative, selected="kept.npy"), Component("web", web)],
    )
    kept, plain = load_mixture(mixture)
    assert kept.scores == scores and plain == Component("web", web)
    records = RecordSource(kept)
    assert [(r["key"], r["texts"]) for r in map(records.__getitem__, range(len(records)))] == [
        ("human-train-0000004", ["new 4"]),
        ("human-train-0000029", ["web 29"]),
        ("human-train-0000004", ["web 4"]),
    ]
    assert records[1]["image"] == make_record(29, "train", HUMAN)["image"]
    everything = RecordSource(Component("all", human, scores=scores))
    assert len(everything) == 30 and everything[7]["texts"] == ["web 7", "new 7"]


def test_what_is_missing_or_does_not_fit_is_named(datasets, tmp_path):
    human = datasets[0]
    with pytest.raises(UserError, match="no dataset in .*nothing: features.json is missing"):
        open_dataset(str(tmp_path / "nothing"), "train")
    with pytest.raises(UserError, match="has no split 'val'; it has test, train"):
        open_dataset(human, "val")
    with pytest.raises(UserError, match="mixture file .*none.json does not exist"):
        load_mixture(str(tmp_path / "none.json"))
    mixture = tmp_path / "mixture.json"
    for content, message in (
        ("{", "mixture.json is not a JSON file"),
        ('{"components": [{"name": "a", "dataset": "b", "wieght": 1}]}', "wieght"),
        (
            '{"components": [{"name": "a", "dataset": "b", "weight": -1}]}',
            "weight of component 'a' is -1",
        ),
        ('{"components": []}', "no component with a weight above 0"),
    ):
        mixture.write_text(content)
        with pytest.raises(UserError, match=message):
            load_mixture(str(mixture))
    selected = tmp_path / "selected.npy"
    for array, message in (
        (np.zeros((2, 3), np.int32), r"int32 \[2, 3\]; expected int32 \[P, 2\]"),
        (np.array([[30, 0]], np.int32), "rows outside 0 to 29"),
        (np.zeros((0, 2), np.int32), "has nothing to train on"),
    ):
        np.save(selected, array)
        with pytest.raises(UserError, match=message):
            RecordSource(Component("a", human, selected=str(selected)))
    np.save(selected, np.array([[0, 5]], np.int32))
    with pytest.raises(UserError, match="selects text 5 of row 0, which has 5"):
        RecordSource(Component("a", human, selected=str(selected)))[0]


def test_scores_of_another_dataset_are_refused(datasets, tmp_path):
    human, web = datasets
    scores = scored(tmp_path, keys=[f"other-{i}" for i in range(30)])
    with pytest.raises(UserError, match="have 30 rows, dataset .* has 50"):
        RecordSource(Component("a", web, scores=scores))
    with pytest.raises(UserError, match="'human-train-0000000' in the dataset and 'other-0'"):
        RecordSource(Component("a", human, scores=scores))[0]
