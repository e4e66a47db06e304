"""croissant.json of assembled and exported datasets: true of their files, read by mlcroissant."""

import hashlib
import json
import logging

import pytest
import scored_dataset
from etils import epath

from blip_jax.capfilt import croissant
from blip_jax.cli.main import main

EXTRACT = "mlcroissant._src.operation_graph.operations.extract"
FORMATS = ("jsonl", "parquet", "webdataset", "blip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset assembled, and exported in each format and without images."""
    folder = tmp_path_factory.mktemp("croissant")
    web = scored_dataset.build(folder)
    argv = ["assemble", f"--workdir={folder / 'mine'}", f"--config.scores={web.scores}"]
    options = "gallery_images=0", "title=Shapes", "url=https://example.org/s", "creator=A. Person"
    options += "version=2.1.0", "citation=@misc{shapes}"
    options += ("selection.source_weights=laion=2",)  # two lists of texts
    assert main([*argv, *(f"--config.{x}" for x in options)]) == 0
    mixture = str(folder / "mine" / "mixture.json")
    for to in FORMATS:
        assert main(["export", mixture, str(folder / to), "--to", to, "--shard", "50"]) == 0
    none = ["export", mixture, str(folder / "none"), "--to", "jsonl", "--images", "none"]
    assert main(none) == 0
    return folder


def metadata(folder):
    return json.loads((folder / croissant.FILE).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["mine", *FORMATS, "none"])
def test_it_names_the_files_that_there_are(folder, name):
    found = metadata(folder / name)
    ids = set()
    for entry in found["distribution"]:
        ids.add(entry["@id"])
        if entry["@type"] == "cr:FileObject":
            data = (folder / name / entry["contentUrl"]).read_bytes()
            assert entry["sha256"] == hashlib.sha256(data).hexdigest()
            assert entry["contentSize"] == f"{len(data)} B"
        elif "containedIn" not in entry:
            assert list((folder / name).glob(entry["includes"]))
        else:
            assert {x["@id"] for x in entry["containedIn"]} <= ids
    for records in found["recordSet"]:
        for field in records["field"]:
            source = field["source"]
            assert (source.get("fileObject") or source["fileSet"])["@id"] in ids
    assert str(folder) not in json.dumps(found)
    if name == "mine":
        lists = {path.name for path in (folder / "mine").glob("*.npy")}
        assert len(lists) == 2 and lists < ids


def test_exports_are_described_as_the_assembled_dataset(folder):
    first = metadata(folder / "mine")
    assert first["name"] == "Shapes" and first["url"] == "https://example.org/s"
    assert first["creator"]["name"] == "A. Person"
    assert first["version"] == "2.1.0" and first["citeAs"] == "@misc{shapes}"
    assert first["license"] == ["cc-by-4.0", "cc-by-sa-4.0", "other"]
    assert first["rai:machineAnnotationTools"][0].startswith(
        "captioner writer: runs/captioner, SHA"
    )
    for name in (*FORMATS, "none"):
        own = metadata(folder / name)
        for key in set(first) - {"distribution", "recordSet"}:
            assert own[key] == first[key], key


@pytest.mark.parametrize("name", ["mine", *FORMATS, "none"])
def test_mlcroissant_reads_what_was_written(folder, name, caplog, tmp_path, monkeypatch):
    library = pytest.importorskip("mlcroissant")
    # Where it extracts tars, by their names alone: those of other exports would be taken for these.
    monkeypatch.setattr(f"{EXTRACT}.EXTRACT_PATH", epath.Path(tmp_path))
    with caplog.at_level(logging.ERROR):
        dataset = library.Dataset(jsonld=str(folder / name / croissant.FILE))
    assert not dataset.metadata.issues.errors
    assert not dataset.metadata.issues.warnings
    if name == "mine":
        weights = [row["components/weight"] for row in dataset.records("components")]
        assert sum(weights) == pytest.approx(1) and len(weights) == 2
        origins = [row["texts/origin"] for row in dataset.records("texts")]
        assert origins == [b"web", b"synthetic"]
        return
    rows = list(dataset.records("images"))
    expected = lines(folder)
    if name == "webdataset":
        found = {x["key"]: x for x in (json.loads(row["images/json"]) for row in rows)}
        assert {x["key"]: x["caption"] for x in expected} == {
            key: x["caption"] for key, x in found.items()
        }
        return
    if name == "blip":
        expected = [
            {"caption": text["text"], "image": x["image"]} for x in expected for text in x["texts"]
        ]
    for row, line in zip(rows, expected, strict=True):
        assert row["images/caption"].decode() == line["caption"]
        if name == "blip":
            assert (folder / name / row["images/image"].decode()).exists()
            continue
        assert [x.decode() for x in row["images/texts"]] == [x["text"] for x in line["texts"]]
        assert row["images/sha256"].decode() == line["sha256"] and row["images/width"] == 32
        if name == "parquet":
            assert row["images/image"].size == (32, 32)


def lines(folder):
    return [json.loads(x) for x in (folder / "jsonl" / "data.jsonl").read_text().splitlines()]


def test_opt_out_fields_are_columns(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n")
    files = [croissant.file_object(tmp_path / "data.jsonl")]
    found = croissant.exported("jsonl", "none", files, ["noai"], croissant.read(tmp_path))
    names = [field["name"] for field in found["recordSet"][0]["field"]]
    assert {"noai", "license", "phash"} < set(names) and "image" not in names
    assert found["name"] == "Image-text pairs"  # the mixture's folder has no croissant.json


@pytest.mark.parametrize("text", ["[]", "{"])
def test_damaged_metadata_of_the_mixture_is_named(folder, tmp_path, capsys, text):
    path = folder / "mine" / croissant.FILE
    kept = path.read_text()
    path.write_text(text)
    argv = ["export", str(folder / "mine" / "mixture.json"), str(tmp_path / "out")]
    assert main([*argv, "--to", "jsonl", "--images", "none"]) == 2
    path.write_text(kept)
    message = capsys.readouterr().err
    assert (
        "croissant.json is" in message
        and message.count("\n") == 1
        and not (tmp_path / "out").exists()
    )
