"""Exported files have names of their own, and nobody else's files are touched."""

import json
import os
import pathlib
import re
import tarfile
import urllib.parse

import numpy as np
import pytest
import scored_dataset
import tiny_dataset

from blip_jax.capfilt import export_rows, writers
from blip_jax.cli.main import main
from blip_jax.data.synthetic.builder import make_record


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("export"), ("large", "small"), 2)


def test_names_of_files_are_safe_and_their_own():
    assert export_rows.file_name("web-train_0000012") == "web-train_0000012"
    assert export_rows.file_name("a b/c.d+ä%") == "a%20b%2Fc%2Ed%2B%C3%A4%25"
    keys = ["a", "a/b", "a b", "a-b", "a_b", "a%20b", "../../etc/passwd", "..", "~", "a~b", ""]
    keys += ["con.tar.gz", "-", "\0", "\ud800", "ä", "ä" * 50, "x" * 96, "x" * 300, "x" * 301]
    names = [export_rows.file_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_%~-]{1,96}", name) for name in names)
    for name, key in zip(names, keys, strict=True):
        if "~" not in name and key != "\ud800":
            assert urllib.parse.unquote(name) == key


TWINS = ("a b", "a-b", "a%20b", "A b", "../x", "ä", "x" * 200)


@pytest.fixture(scope="module")
def twins(web):
    """A mixture of the same images under names that are hard to tell apart as folders."""
    path = pathlib.Path(web.scores).parent / "twins.json"
    components = [{"name": name, "dataset": web.images, "split": "train[:3]"} for name in TWINS]
    path.write_text(json.dumps({"components": components}))
    return str(path)


@pytest.mark.parametrize("to", ["jsonl", "blip", "webdataset"])
def test_every_component_has_files_of_its_own(twins, tmp_path, to):
    out = tmp_path / "out"
    assert main(["export", twins, str(out), "--to", to]) == 0
    count = 3 * len(TWINS)
    if to == "webdataset":
        with tarfile.open(out / "00000.tar") as tar:
            names = [member.name for member in tar]
            rows = [json.load(tar.extractfile(x)) for x in tar if x.name.endswith("json")]
        assert len(names) == len(set(names)) == 3 * count
        assert names[0].startswith("a%20b+web-") and names[0].endswith(".png")
        assert [row["component"] for row in rows] == [name for name in TWINS for _ in range(3)]
        return
    images = [path for path in (out / "images").rglob("*") if path.is_file()]
    assert len(images) == count and len(os.listdir(out / "images")) == len(TWINS)
    assert os.listdir(tmp_path) == ["out"]
    if to == "jsonl":
        for line in (out / "data.jsonl").read_text().splitlines():
            row = json.loads(line)
            folder = row["image"].split("/")[1]
            assert urllib.parse.unquote(folder) == row["component"] or "~" in folder


def test_keys_that_come_twice_do_not_overwrite_each_other(tmp_path):
    keys = ["a", "a", "A", "b"]
    picture = make_record(0, "train", scored_dataset.WEB)["image"]
    images = [picture + bytes([number]) for number in range(4)]
    records = [{"key": key, "image": image, "texts": ["t"], "truth": ""}
               for key, image in zip(keys, images, strict=True)]  # fmt: skip
    dataset = tiny_dataset.write(str(tmp_path / "twice"), records)
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"components": [{"name": "c", "dataset": dataset}]}))
    assert main(["export", str(mixture), str(tmp_path / "files"), "--to=jsonl"]) == 0
    lines = [json.loads(x) for x in (tmp_path / "files" / "data.jsonl").read_text().splitlines()]
    assert [(tmp_path / "files" / x["image"]).read_bytes() for x in lines] == images
    assert [pathlib.Path(x["image"]).name for x in lines] == [
        "a.png", "a+1.png", "A+2.png", "b.png",
    ]  # fmt: skip
    assert main(["export", str(mixture), str(tmp_path / "tars"), "--to=webdataset"]) == 0
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        found = {x.name: tar.extractfile(x).read() for x in tar if x.name.endswith("png")}
    assert list(found.values()) == images and list(found)[1] == "c+a+1.png"


def test_a_folder_of_somebody_else_is_not_touched(twins, tmp_path):
    for name in ("out.incomplete", ".incomplete-out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("kept")
    assert main(["export", twins, str(tmp_path / "out"), "--to=jsonl"]) == 0
    for name in ("out.incomplete", ".incomplete-out"):
        assert (tmp_path / name / "mine").read_text() == "kept"
    assert len(os.listdir(tmp_path)) == 3


def test_an_unfinished_folder_of_somebody_else_is_not_touched(twins, tmp_path, capsys):
    folder = tmp_path / "out.unfinished" / "units"
    folder.mkdir(parents=True)
    (folder / "mine").write_text("kept")
    assert main(["export", twins, str(tmp_path / "out"), "--to=jsonl"]) == 2
    assert "out.unfinished exists already; choose another path" in capsys.readouterr().err
    assert (folder / "mine").read_text() == "kept"
    assert os.listdir(tmp_path) == ["out.unfinished"]
    assert os.listdir(tmp_path / "out.unfinished") == ["units"]


def test_of_two_exports_to_one_folder_the_second_is_refused(twins, tmp_path, monkeypatch, capsys):
    """Another one begins while this one writes."""
    out, write = tmp_path / "out", writers.Jsonl.write

    def slow(self, rows):
        write(self, rows)
        assert main(["export", twins, str(out), "--to=blip"]) == 2

    monkeypatch.setattr(writers.Jsonl, "write", slow)
    assert main(["export", twins, str(out), "--to=jsonl"]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out.unfinished is in use by process" in error
    assert sorted(os.listdir(out)) == ["croissant.json", "data.jsonl", "images"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_another_program_makes_meanwhile_is_kept(
    twins, tmp_path, monkeypatch, capsys
):
    out, write = tmp_path / "out", writers.Jsonl.write

    def slow(self, rows):
        write(self, rows)
        out.mkdir(exist_ok=True)
        (out / "mine").touch()

    monkeypatch.setattr(writers.Jsonl, "write", slow)
    assert main(["export", twins, str(out), "--to=jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "was made by another process in the meantime" in error
    assert os.listdir(out) == ["mine"]


@pytest.mark.parametrize("chosen", [-1, 1, 7])
def test_a_text_that_is_not_there_is_refused(web, tmp_path, capsys, chosen):
    np.save(tmp_path / "s.npy", np.array([[2, chosen]], np.int32))
    component = {"name": "c", "dataset": web.images, "selected": "s.npy"}
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"components": [component]}))
    assert main(["export", str(mixture), str(tmp_path / "out"), "--to=jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"s.npy selects text {chosen} of" in error
    assert not (tmp_path / "out").exists()


def test_control_characters_of_keys_are_not_printed(tmp_path, capsys):
    records = [{"key": "\x1b]0;x\x07\n\u202e", "image": b"no", "texts": ["a"], "truth": ""}]
    dataset = tiny_dataset.write(str(tmp_path / "odd"), records)
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"components": [{"name": "c", "dataset": dataset}]}))
    assert main(["export", str(mixture), str(tmp_path / "out"), "--to=jsonl"]) == 1
    assert r"blip-jax export: \x1b]0;x\x07\n\u202e: not an image" in capsys.readouterr().err
