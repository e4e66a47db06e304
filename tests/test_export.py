"""What a mixture names, in the files of other programs, and back again."""

import json
import os
import pathlib
import tarfile

import numpy as np
import pyarrow.parquet
import pytest
import scored_dataset

from blip_jax.capfilt import export_rows
from blip_jax.cli.main import main
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.mixture import RecordSource, load_mixture

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def web(root):
    return scored_dataset.build(root, ("large", "small"), 2)


@pytest.fixture(scope="module")
def mixture(root, web):
    """Texts of P(match) >= 0.4; those of one source are drawn twice as often."""
    argv = ["assemble", f"--config={ROOT / 'configs' / 'assemble.py'}", f"--workdir={root / 'out'}"]
    options = [
        "gallery_images=0",
        "selection.thresholds.web=0.4",
        "selection.thresholds.synthetic=0.4",
        "selection.source_weights=laion=2",
    ]
    options = [f"--config.{option}" for option in [*options, f"scores={web.scores}"]]
    assert main(argv + options) == 0
    return str(root / "out" / "mixture.json")


@pytest.fixture(scope="module")
def wanted(mixture):
    """{key: {text}} and {key: image bytes} as training reads them."""
    texts, images = {}, {}
    for component in load_mixture(mixture):
        pairs = RecordSource(component)
        for number in range(len(pairs)):
            record = pairs[number]
            texts.setdefault(record["key"], []).append(record["texts"][0])
            images[record["key"]] = record["image"]
    return texts, images


@pytest.fixture(scope="module")
def exported(root, mixture, wanted):
    """Folders by format, several files of 50 images where there can be."""
    folders = {}
    for to in ("jsonl", "parquet", "webdataset", "blip"):
        folders[to] = root / to
        assert main(["export", mixture, str(folders[to]), "--to", to, "--shard", "50"]) == 0
    return folders


def said(entries):
    return [entry["text"] for entry in entries]


def check(row, wanted):
    """The texts of a row with their scores, the best of them on top."""
    assert sorted(said(row["texts"])) == sorted(wanted[0][row["key"]])
    best = max(row["texts"], key=lambda text: text["p_match"])
    assert row["caption"] == best["text"] and best["p_match"] >= 0.4
    for text in row["texts"]:
        assert text["origin"] in ("web", "synthetic")
        assert (text["model"] == "writer") == (text["origin"] == "synthetic")
        each = [judge["p_match"] for judge in text["filters"]]
        assert [judge["filter"] for judge in text["filters"]] == ["large", "small"]
        assert np.mean(each) == pytest.approx(text["p_match"], rel=1e-5)
    number = int(row["key"][-7:])
    assert row["source"] == scored_dataset.SOURCES[number % 2] and row["width"] == 32
    assert row["url"] == f"https://example.org/{number}.png"
    assert row["component"] == ("web x 2" if number % 2 == 0 else "web x 1")


def test_json_lines_and_image_files(exported, wanted):
    folder = exported["jsonl"]
    lines = (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["key"] for row in rows] == list(wanted[1])
    for row in rows:
        check(row, wanted)
        assert (folder / row["image"]).read_bytes() == wanted[1][row["key"]]
        assert row["image"].endswith(".png")


def test_parquet_holds_images(exported, wanted):
    files = sorted((exported["parquet"] / "data").iterdir())
    tables = [pyarrow.parquet.read_table(file) for file in files]
    assert [len(table) for table in tables[:-1]] == [50] * (len(tables) - 1) and len(tables) > 2
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == len(wanted[0])
    for row in rows:
        check(row, wanted)
        assert row["image"]["bytes"] == wanted[1][row["key"]]


def test_webdataset_tars(exported, wanted):
    """Members of one name are a sample, in this order, and no two samples share a name."""
    found = {}
    for file in sorted(exported["webdataset"].glob("*.tar")):
        with tarfile.open(file, "r|") as tar:
            members = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
        assert len(members) <= 150 and len(members) % 3 == 0
        for at in range(0, len(members), 3):
            names, (image, text, fields) = zip(*members[at : at + 3])
            stems, suffixes = zip(*(name.split(".") for name in names))
            assert set(stems) == {stems[0]} and suffixes == ("png", "txt", "json")
            row = json.loads(fields)
            check(row, wanted)
            assert text.decode().splitlines() == said(row["texts"])
            assert image == wanted[1][row["key"]] and stems[0] not in found
            found[stems[0]] = row["key"]
    assert sorted(found.values()) == sorted(wanted[0])


def test_the_originals_list(exported, wanted):
    folder = exported["blip"]
    entries = json.loads((folder / "captions.json").read_text())
    assert all(set(entry) == {"image", "caption"} for entry in entries)
    found = {}
    for entry in entries:
        found.setdefault((folder / entry["image"]).read_bytes(), []).append(entry["caption"])
    assert {data: sorted(texts) for data, texts in found.items()} == {
        wanted[1][key]: sorted(texts) for key, texts in wanted[0].items()
    }


def test_the_card_goes_along(exported):
    for folder in exported.values():
        assert (folder / "README.md").read_text().startswith("---\nlicense:")
        assert not list(folder.parent.glob(".incomplete-*"))


@pytest.mark.parametrize("to", ["jsonl", "parquet", "webdataset", "blip"])
def test_prepare_reads_it_back(exported, wanted, tmp_path, to):
    pattern = {"jsonl": "data.jsonl", "parquet": "data/*.parquet", "webdataset": "*.tar",
               "blip": "captions.json"}[to]  # fmt: skip
    argv = ["prepare", f"--config={ROOT / 'configs' / 'prepare.py'}", f"--workdir={tmp_path}"]
    options = [f"source={exported[to] / pattern}", "workers=1"]
    assert main(argv + [f"--config.{option}" for option in options]) == 0
    (features,) = tmp_path.rglob("features.json")
    rows = open_dataset(str(features.parent), "train")
    found = {bytes(row["image"]): sorted(map(to_text, row["texts"])) for row in rows}
    assert found == {wanted[1][key]: sorted(texts) for key, texts in wanted[0].items()}


def test_without_images_nothing_but_the_list_is_written(mixture, wanted, tmp_path):
    out = tmp_path / "list"
    assert (
        main(["export", mixture, str(out), "--to=blip", "--images=none", "--component", "web x 1"])
        == 0
    )
    entries = json.loads((out / "captions.json").read_text())
    assert all(set(entry) == {"url", "caption"} for entry in entries)
    odd = [texts for key, texts in wanted[0].items() if int(key[-1]) % 2]
    assert sorted(entry["caption"] for entry in entries) == sorted(sum(odd, []))
    names = ["README.md", "captions.json", "croissant.json", "statistics.json"]
    assert sorted(os.listdir(out)) == names


def test_a_part_without_scores_has_texts_alone(web, tmp_path):
    """And what is no image is left out, and named."""
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"components": [{"name": "plain", "dataset": web.images}]}))
    assert main(["export", str(mixture), str(tmp_path / "out"), "--to", "parquet"]) == 1
    (file,) = (tmp_path / "out" / "data").iterdir()
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert len(rows) == scored_dataset.ROWS - 1
    assert (
        rows[3]["texts"][0]["p_match"] is None and rows[3]["caption"] == rows[3]["texts"][0]["text"]
    )


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["VIEW", "OUT"], "--to"),
        (["none.json", "OUT", "--to=jsonl"], "none.json does not exist"),
        (
            ["VIEW", "OUT", "--to=jsonl", "--images=bytes"],
            "takes --images files or none, not bytes",
        ),
        (
            ["VIEW", "OUT", "--to=jsonl", "--component=human"],
            "no component 'human'; it has web x 2, web x 1",
        ),
        (["VIEW", "OUT", "--to=jsonl", "--shard=0"], "--shard is 0"),
        (["VIEW", "TAKEN", "--to=jsonl"], "exists already"),
        (["VIEW", "gs://bucket/out", "--to=jsonl"], "is not a local folder"),
    ],
)
def test_a_wrong_call_is_one_line(mixture, tmp_path, capsys, argv, named):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    places = {"VIEW": mixture, "OUT": str(tmp_path / "out"), "TAKEN": str(tmp_path / "taken")}
    assert main(["export", *(places.get(arg, arg) for arg in argv)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error
    assert os.listdir(tmp_path) == ["taken"]


def test_what_breaks_off_leaves_nothing(mixture, tmp_path, monkeypatch):
    def breaks(*unused):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_rows.Row, "suffix", property(breaks))
    assert main(["export", mixture, str(tmp_path / "out"), "--to=webdataset"]) == 130
    assert os.listdir(tmp_path) == []
