"""Mixtures: what their components are, which records they have, and what is refused."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from given_dataset import write

from blip_jax.data.datasets import open_dataset
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers import tfds_datasets
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
    url = "https://a.b/c"
    for component in (Component("a", url), Component("a", human, selected=url)):
        with pytest.raises(UserError, match=f"{url} is neither a local nor a gs:// path"):
            RecordSource(component)
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


def refusal(tmp_path, text: str) -> str:
    path = tmp_path / "mixture.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_mixture(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[" * 200_000, "is not a JSON file: nested too deeply"),
        ("\0", "is not a JSON file"),
        ("[]", "is not a mixture: expected"),
        ('{"components": {"name": "a"}}', "is not a mixture: expected"),
        ('{"components": ["a"]}', "component 'a' is no object"),
        ('{"components": [{"dataset": "b"}]}', "component None has no name; add it"),
        ('{"components": [{"name": "a", "dataset": "b", "wieght": 2}]}', "did you mean 'weight'?"),
        ('{"components": [{"name": "a", "dataset": "b", "weight": "2"}]}', "is '2'; give a number"),
        ('{"components": [{"name": 5, "dataset": "b"}]}', "name of component 5 is 5; expected"),
        ('{"components": [{"name": "", "dataset": "b"}]}', "name of component '' is ''"),
        ('{"components": [{"name": "a", "dataset": 5}]}', "dataset of component 'a' is 5"),
        ('{"components": [{"name": "a", "dataset": null}]}', "dataset of component 'a' is None"),
        ('{"components": [{"name": "a", "dataset": "b", "split": ["x"]}]}', "split of component"),
        ('{"components": [{"name": "a", "dataset": "b", "selected": 5}]}', "selected of component"),
        ('{"components": [{"name": "a", "dataset": "b", "scores": {}}]}', "scores of component"),
        ('{"components": [{"name": "a", "dataset": "b", "weight": NaN}]}', "'a' is nan; give a"),
        ('{"components": [{"name": "a", "dataset": "b", "weight": true}]}', "'a' is True; give a"),
        ('{"components": [{"name": "a", "dataset": "b", "weight": 1e999}]}', "'a' is inf; give a"),
        (
            '{"components": [{"name": "a", "dataset": "b"}, {"name": "a", "dataset": "c"}]}',
            "has 2 components of the name 'a'; give each its own name",
        ),
    ],
)
def test_a_malformed_mixture_is_one_line(tmp_path, text, named):
    assert named in refusal(tmp_path, text)


def test_a_mixture_that_is_a_folder_or_weighs_much_is_one_line(datasets, tmp_path):
    with pytest.raises(UserError, match="is a folder; give a JSON file"):
        load_mixture(str(tmp_path))
    path = tmp_path / "mixture.json"
    path.write_text('{"components": [{"name": "a", "dataset": "b", "weight": 1%s}]}' % ("0" * 400))
    assert load_mixture(str(path))[0].weight == 10**400


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is not a .npy file"),
        (b"\x93NUMPY\x01\x00", "is not a .npy file"),
        (b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118, "is not a .npy file"),
        (None, "holds several arrays"),
        (np.array([["a", "b"]]), r"holds <U1 \[1, 2\]; expected int32"),
        (np.array([[0.0, 1.0]]), "holds float64"),
        (np.array([[0, -1]], np.int32), "selects text -1 of a row"),
        (np.array([[-1, 0]], np.int32), "selects rows outside 0 to 29"),
        (np.array([[0, 2**40]]), "selects text 1099511627776 of row 0, which has 5"),
    ],
)
def test_a_malformed_selection_is_one_line(datasets, tmp_path, content, named):
    path = tmp_path / "selected.npy"
    if content is None:
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(2))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=named) as error:
        RecordSource(Component("a", datasets[0], selected=str(path)))[0]
    assert "\n" not in str(error.value)


def test_scores_that_are_none_are_refused(datasets):
    human = datasets[0]
    with pytest.raises(UserError, match="holds no scores of texts; give a folder of capfilt"):
        RecordSource(Component("a", human, scores=human))


def test_a_split_that_ends_before_it_starts_is_refused(datasets):
    with pytest.raises(UserError, match=r"split 'train\[5:2\]' of .* ends before it starts"):
        open_dataset(datasets[0], "train[5:2]")
    assert len(open_dataset(datasets[0], "train[2:5]")) == 3
    with pytest.raises(UserError, match="has no field 'price'; it has .*key"):
        open_dataset(datasets[0], "train", ["price"])


def test_a_damaged_file_of_records_is_one_line(datasets, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(datasets[0], folder)
    (file,) = folder.glob("*train*array_record*")
    for content in (b"", b"x" * 100, file.read_bytes()[: 1 << 16], b"y" * (1 << 17)):
        file.write_bytes(content)
        message = "split train: row 3 cannot be read .* damaged or cut short: copy"
        with pytest.raises(UserError, match=message) as error:
            open_dataset(str(folder), "train")[3]
        assert "\n" not in str(error.value)


# What a dataset's metadata may make Python import.

TEXT = "tensorflow_datasets.core.features.text_feature.Text"
NESTED = json.dumps({"pythonClassName": f"{TEXT}", "jsonFeature": {
    "json": json.dumps({"a": {"type": "planted_module.Feature", "content": {}}})}})  # fmt: skip


@pytest.mark.parametrize("way", ["class", "snake case", "nested", "type"])
def test_metadata_imports_no_module_of_the_current_folder(datasets, tmp_path, monkeypatch, way):
    folder, planted = tmp_path / "copy", "planted_module.Feature"
    shutil.copytree(datasets[0], folder)
    (tmp_path / "planted_module.py").write_text("open('was_imported', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (folder / "features.json").read_text()
    assert TEXT in text
    if way == "nested":
        text = NESTED
    elif way == "type":
        text = json.dumps({"type": planted, "content": {}})
    else:
        text = text.replace(TEXT, planted)
    if way == "snake case":
        text = text.replace("pythonClassName", "python_class_name")
    (folder / "features.json").write_text(text)
    with pytest.raises(UserError, match="names the class 'planted_module.Feature', which is not"):
        open_dataset(str(folder), "train")
    settings = IngestConfig(source=str(folder))
    with pytest.raises(UserError, match="names the class 'planted_module.Feature', which is not"):
        list(tfds_datasets.plan(str(folder), settings))
    assert not (tmp_path / "was_imported").exists() and "planted_module" not in sys.modules


@pytest.mark.parametrize("text", ["[" * 200_000, "5", "{}", "null", '"a"', f'{{"a": "{TEXT}"}}'])
def test_malformed_features_are_one_line(datasets, tmp_path, text):
    folder = tmp_path / "copy"
    shutil.copytree(datasets[0], folder)
    (folder / "features.json").write_text(text)
    with pytest.raises(UserError) as error:
        open_dataset(str(folder), "train")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
