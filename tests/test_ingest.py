"""Imports of every format: their rows, keys, fields and texts."""

import csv
import json

import malformed_files as found
import pyarrow
import pyarrow.parquet
import pytest
import tiny
from ingest_fixture import TEXTS, check_rows, pictures, run

from blip_jax.data.ingest.plan import as_name, source_name
from blip_jax.data.mixture import Component
from blip_jax.data.pipeline import train_batches
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.tasks.pretraining import PretrainingConfig


def lists(folder, records):
    """A file of each format that names images by their paths."""
    (folder / "list.json").write_text(json.dumps(records, indent=2))
    (folder / "lines.jsonl").write_text("\n\n".join(map(json.dumps, records)) + "\n")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    head, *rest = ["\t".join(map(str, values)) for values in [records[0]] + [
        record.values() for record in records]]  # fmt: skip
    (folder / "table.tsv").write_text("\n".join([head, *rest]) + "\n")
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(records), folder / "table.parquet", row_group_size=2
    )
    return [folder / name for name in (
        "list.json", "lines.jsonl", "table.csv", "table.tsv", "table.parquet")]  # fmt: skip


def test_lists_of_paths_in_every_format_and_cut(tmp_path):
    folder = pictures(tmp_path)
    records = [
        {"image": f"{seed}.jpg", "caption": f'text {seed}, "quoted"', "license": "CC0", "n": seed}
        for seed in (0, 1, 2)
    ]
    for number, path in enumerate(lists(folder, records)):
        for rows_a_unit in (1, 2, 10):
            manifest, rows, index = run(
                tmp_path, path, f"out-{number}-{rows_a_unit}", records_per_unit=rows_a_unit
            )
            check_rows(rows, [[record["caption"]] for record in records])
            assert len(manifest["units"]) == -(-3 // rows_a_unit)
            assert [int(json.loads(row["fields"])["n"]) for row in rows] == [0, 1, 2]
            assert {entry["license"] for entry in index} == {"CC0"}
            assert {row["source"] for row in rows} == {path.stem}
            assert [row["key"].split("--")[1] for row in rows] == [
                "000000000", "000000001", "000000002"]  # fmt: skip


def test_the_originals_lists(tmp_path):
    """COCO's have a record a caption, the web's a URL; both may lie apart from the images."""
    folder = pictures(tmp_path)
    coco = [
        {"image": f"images/{seed}.jpg", "caption": text, "image_id": f"coco_{seed}", "id": 7 * n}
        for seed, texts in enumerate(TEXTS)
        for n, text in enumerate(texts)
    ]
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    manifest, rows, _ = run(tmp_path, tmp_path / "coco.json")
    check_rows(rows)
    assert [row["key"] for row in rows] == ["coco--coco_0", "coco--coco_1", "coco--coco_2"]
    assert json.loads(rows[1]["fields"]) == {"id": 0, "merged": [{"id": 7}]}
    assert (manifest["records_read"], manifest["skipped"]) == (
        4,
        {"merged with the record before": 1},
    )
    web = [{"url": f"https://a.b/c/{seed}.jpg?d=e", "caption": TEXTS[seed]} for seed in range(3)]
    (tmp_path / "web.json").write_text(json.dumps([*web, {"url": "https://a.b/9.jpg",
                                                          "caption": "gone"}]))  # fmt: skip
    manifest, rows, _ = run(tmp_path, tmp_path / "web.json", "web", images=str(folder))
    check_rows(rows)
    assert rows[2]["url"] == "https://a.b/c/2.jpg?d=e"
    assert manifest["skipped"] == {"missing image": 1}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_of_webdataset(tmp_path, mode):
    images = [found.jpeg(seed) for seed in range(3)]
    samples = [
        ("./a/000", {"jpg": images[0], "txt": b"a red ball\n", "cls": b"7"}),
        ("a/001", {"json": {"caption": TEXTS[1], "url": "http://u", "w": 1.5}, "jpeg": images[1]}),
        ("a/001", {"json": {"truth": "dog"}, "image.JPG": images[2], "txt": b"a dog"}),
        ("a/003", {"txt": b"alone"}),
        ("a/._004", {"jpg": b"a Mac's"}),
        ("a/005", {"jpg": images[0], "json": b"{"}),
    ]
    found.write_tar(tmp_path / "x.tar", samples, mode)
    manifest, rows, _ = run(tmp_path, tmp_path / "x.tar", format="tar")
    check_rows(rows)
    assert [row["key"] for row in rows] == ["x--a-000", "x--a-001", "x--a-001-2"]
    assert [row["truth"] for row in rows] == ["", "", "dog"]
    assert json.loads(rows[0]["fields"]) == {"cls": "7"}
    assert (rows[1]["url"], json.loads(rows[1]["fields"])) == ("http://u", {"w": 1.5})
    assert manifest["skipped"] == {
        "broken JSON": 1, "file of no record": 1, "missing image": 1}  # fmt: skip


def test_rows_that_were_exported(tmp_path):
    """Texts with scores in the JSON, and again in the .txt, a line each."""
    texts = [{"text": "a  red\nball", "p_match": 0.75}, {"text": "a ball", "p_match": None}]
    members = {"jpg": found.jpeg(0), "txt": b"a red ball\na ball", "json": {"texts": texts}}
    found.write_tar(tmp_path / "x.tar", [("0", members)])
    _, rows, _ = run(tmp_path, tmp_path / "x.tar")
    assert rows[0]["texts"] == ["a  red\nball", "a ball"]
    assert json.loads(rows[0]["fields"]) == {"texts": texts}


def test_parquet_with_images_inside(tmp_path):
    """As img2dataset writes it, and Hugging Face."""
    own = [
        {"jpg": found.jpeg(seed), "caption": TEXTS[seed][0], "status": "success",
         "width": 9, "key": f"k{seed}"}
        for seed in range(3)
    ]  # fmt: skip
    own.append(own[0] | {"jpg": None, "status": "failed_to_download", "key": "k3"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(own), tmp_path / "own.parquet")
    manifest, rows, _ = run(tmp_path, tmp_path / "own.parquet", "own")
    check_rows(rows, [[texts[0]] for texts in TEXTS])
    assert rows[0]["width"] == 48 and json.loads(rows[0]["fields"])["width"] == 9
    assert manifest["skipped"] == {"missing image": 1}
    aside = (tmp_path / "own" / "skipped.jsonl").read_text()
    assert json.loads(aside)["detail"] == "failed_to_download"
    hub = [
        {"image": {"bytes": found.jpeg(seed), "path": "x.jpg"}, "alt_text": TEXTS[seed]}
        for seed in range(3)
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(hub), tmp_path / "hub.parquet", row_group_size=2
    )
    check_rows(run(tmp_path, tmp_path / "hub.parquet", "hub", records_per_unit=2)[1])


def test_folders_with_side_cars(tmp_path):
    folder = pictures(tmp_path)
    (folder / "0.txt").write_text("a red ball\n\n")
    (folder / "1.txt").write_text("a blue cube\na cube\n")
    (folder / "2.json").write_text(json.dumps({"caption": "a dog", "license": "CC-BY"}))
    (folder / "notes.md").write_text("no image")
    (folder / "z").mkdir()
    (folder / "z" / "3.png").write_bytes(found.encoded(found.picture(3), "PNG"))
    manifest, rows, index = run(tmp_path, folder)
    check_rows(rows)
    assert manifest["skipped"] == {"empty text": 1}
    assert [row["key"] for row in rows] == ["images--0", "images--1", "images--2"]
    assert [entry["license"] for entry in index] == [None, None, "CC-BY"]
    lines = [{"file_name": f"{seed}.jpg", "text": TEXTS[seed]} for seed in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    check_rows(run(tmp_path, folder, "hub")[1])
    _, rows, _ = run(
        tmp_path, folder, "all", allow_no_text=True, records_per_unit=3, format="folder"
    )
    assert [(row["key"], row["texts"]) for row in rows[-1:]] == [("images-00001--z-3", [])]


def test_datasets_of_tfds(tmp_path, monkeypatch):
    """By folder: one that was imported before; by name: one prepared on this machine."""
    folder = pictures(tmp_path)
    records = [{"image": f"{n}.jpg", "caption": TEXTS[n], "color": "red"} for n in range(3)]
    path = lists(folder, records)[1]
    first = run(tmp_path, path, "imported/1.0.0")[1]
    _, again, _ = run(tmp_path, tmp_path / "imported" / "1.0.0", "again", records_per_unit=2)
    check_rows(again)
    assert json.loads(again[0]["fields"])["color"] == "red"
    assert [row["sha256"] for row in again] == [row["sha256"] for row in first]
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    check_rows(run(tmp_path, "imported", "named", format="tfds")[1])


def test_an_import_is_trained_on(tmp_path):
    found.write_shards(tmp_path / "in", 2, 20, broken=5)
    run(tmp_path, tmp_path / "in")
    tokenizer = train_wordpiece(["picture 0 1 2 3"], str(tmp_path / "tokenizer"), 60)
    config = tiny.config(med={"vocab_size": tokenizer.ids.vocab_size, "max_length": 24})
    task = PretrainingConfig(max_length=24, itc=None, itm=None).make(config, tokenizer)
    component = Component("web", str(tmp_path / "out"))
    batch = next(train_batches([component], task, batch_size=8, num_threads=1))
    size = config.vit.image_size
    assert batch["image"].shape == (8, size, size, 3) and batch["valid"].all()


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("shards/*.tar", "shards"),
        ("*.tar", "import"),
        ("../x.tar.gz", "x"),
        ("data/cc12m/1.0.0", "cc12m"),
        ("coco_captions:1.1.0", "coco_captions"),
        ("gs://bucket/cc/*/x*.tar", "cc"),
        ("lists/captions.v2.jsonl", "captions-v2"),
        ("/photos/mine/", "mine"),
    ],
)
def test_sources_are_named_after_their_folder_or_file(pattern, name):
    assert source_name(pattern) == name


def test_keys_can_be_names_of_files():
    assert as_name("a/b.c--d e\udce9") == "a-b-c-d-e" and as_name("../..") == "record"
    assert as_name("ключ_1") == "ключ_1" and len(as_name("x" * 300)) == 100
