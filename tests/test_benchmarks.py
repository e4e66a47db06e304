"""Imports of published benchmarks from miniature folders: rows, keys, fields, counts."""

import json
from typing import get_args

import benchmark_folders as folders
import malformed_files as found
import pytest
from ingest_fixture import run

from blip_jax.data.datasets import open_dataset
from blip_jax.data.ingest.benchmarks import BENCHMARKS
from blip_jax.data.ingest.config import BenchmarkName


def imported(tmp_path, benchmark, make=None, split=None, **fields):
    """(manifest, rows, their fields) of the import of a miniature folder."""
    source = tmp_path / benchmark
    if not source.exists():
        (make or folders.FOLDERS[benchmark][0])(source)
    fields |= {"benchmark": benchmark, "split": split or folders.FOLDERS[benchmark][1]}
    name = f"out-{len(list(tmp_path.iterdir()))}"
    manifest, rows, _ = run(tmp_path, source, name, **fields)
    return manifest, rows, [json.loads(row["fields"]) for row in rows]


def names(rows, benchmark, split):
    """Keys without their prefix, which all must have."""
    assert all(row["key"].startswith(f"{benchmark}-{split}--") for row in rows)
    assert {row["source"] for row in rows} == {benchmark}
    return [row["key"].split("--")[1] for row in rows]


def seeds(rows, count=4):
    """Which pictures the rows have."""
    known = {found.jpeg(seed): seed for seed in range(count)}
    return [known[row["image"]] for row in rows]


def test_every_benchmark_has_a_name_a_split_and_a_test():
    assert {"", *BENCHMARKS} == set(get_args(BenchmarkName)) == {"", *folders.FOLDERS}
    assert all(benchmark.splits for benchmark in BENCHMARKS.values())


def test_coco_by_karpathys_splits(tmp_path, capsys):
    manifest, rows, fields = imported(tmp_path, "coco")
    assert names(rows, "coco", "train") == ["391895", "57870"]  # restval counts as train
    assert seeds(rows) == [0, 1]
    assert rows[0]["texts"] == ["A man 0 0.", "A man 0 1."]
    assert fields[0] == {"image_id": "391895", "caption_ids": [0, 1]}
    line = "coco train has 2 images and 4 captions where 113,287 and 566,747 are published"
    assert [line in printed for printed in capsys.readouterr().err.splitlines()] == [True]
    assert manifest["benchmark"]["read"] == {"images": 2, "captions": 4}
    assert imported(tmp_path, "coco", split="test")[1][0]["texts"] == ["A man 2 0.", "A man 2 1."]


def test_cocos_own_files(tmp_path):
    _, rows, fields = imported(tmp_path, "coco", folders.coco_official, "val2014")
    assert names(rows, "coco", "val2014") == ["391895", "522418"]
    assert [row["texts"] for row in rows] == [
        ["A man on a moped."],
        ["A woman cuts a cake.", "A white cake."],
    ]
    assert fields[1]["image_id"] == "522418" and fields[1]["caption_ids"] == [2, 4]
    assert fields[1]["coco_url"].endswith("COCO_val2014_000000522418.jpg")


@pytest.mark.parametrize("field", ["image", "url"])
def test_blips_lists_of_captions(tmp_path, field):
    base = "http://images.cocodataset.org/" if field == "url" else ""
    paths = ["val2014/COCO_val2014_000000522418.jpg", "train2014/COCO_train2014_000000000009.jpg"]
    folders.images(tmp_path / "coco", *paths)
    train = [
        {"caption": text, field: f"{base}{paths[n]}", "image_id": f"coco_{n}"}
        for n, text in [(0, "a cake"), (1, "a plate"), (0, "a woman ")]
    ]
    val = [{field: paths[0], "caption": ["a cake", "a woman"]}, {field: paths[1], "caption": "a"}]
    folders.write(tmp_path / "coco", "annotation/coco_karpathy_train.json", train)
    folders.write(tmp_path / "coco", "annotation/coco_karpathy_val.json", val)
    for split, texts in [("train", "a plate"), ("val", "a")]:
        _, rows, fields = imported(tmp_path, "coco", split=split)
        assert names(rows, "coco", split) == ["522418", "9"] and seeds(rows) == [0, 1]
        assert [row["texts"] for row in rows] == [["a cake", "a woman"], [texts]]
        assert fields[1] == {"image_id": "9"}


def test_flickr30k(tmp_path):
    _, rows, fields = imported(tmp_path, "flickr30k")
    assert names(rows, "flickr30k", "test") == ["1007129816", "36979"] and seeds(rows) == [0, 1]
    assert rows[0]["texts"] == ["Two dogs 0.", "Two dogs 1."]
    listed = [{"image": "flickr30k-images/1007129816.jpg", "caption": ["a", "b"]}]
    folders.write(tmp_path / "flickr30k", "flickr30k_val.json", listed)
    (tmp_path / "flickr30k" / "karpathy" / "dataset_flickr30k.json").unlink()
    _, rows, fields = imported(tmp_path, "flickr30k", split="val")
    assert rows[0]["texts"] == ["a", "b"] and fields == [{"image_id": "1007129816"}]


def test_nocaps_with_domains(tmp_path):
    _, rows, fields = imported(tmp_path, "nocaps")
    assert names(rows, "nocaps", "val") == ["0", "1", "2"] and seeds(rows) == [0, 1, 2]
    assert rows[1]["texts"] == [f"A baby 1 {n}." for n in range(10)]
    assert [value["domain"] for value in fields] == ["in-domain", "near-domain", "out-domain"]
    assert fields[2]["open_images_id"] == "0013ea2087020902"


def test_vqa_groups_the_questions_of_an_image(tmp_path):
    manifest, rows, fields = imported(tmp_path, "vqa_v2")
    assert names(rows, "vqa_v2", "val") == ["262148", "393225"] and seeds(rows) == [0, 1]
    assert rows[0]["texts"] == [] and fields[0]["image_id"] == "262148"
    assert [question["id"] for question in fields[0]["questions"]] == ["262148000", "262148001"]
    assert fields[1]["questions"] == [
        {"id": "393225000", "question": "What is it?", "answers": folders.VOTES, "type": "other",
         "question_type": "what is"}
    ]  # fmt: skip
    assert manifest["benchmark"] == {
        "read": {"images": 2, "questions": 3},
        "published": {"images": 40_504, "questions": 214_354},
    }


def test_vqa_test_has_no_answers(tmp_path):
    source = tmp_path / "vqa_v2"
    questions = [{"image_id": 1, "question": "Is it?", "question_id": 1000}]
    for subtype in ("test2015", "test-dev2015"):
        value = {"data_subtype": subtype, "questions": questions}
        folders.write(source, f"v2_OpenEnded_mscoco_{subtype}_questions.json", value)
    folders.images(source, "test2015/COCO_test2015_000000000001.jpg")
    for split in ("test", "test_dev"):
        _, rows, fields = imported(tmp_path, "vqa_v2", split=split)
        assert names(rows, "vqa_v2", split) == ["1"]
        assert fields[0]["questions"] == [
            {"id": "1000", "question": "Is it?", "answers": [], "type": ""}
        ]


def test_blips_lists_of_questions(tmp_path):
    path = "train2014/COCO_train2014_000000000009.jpg"
    rows = [{"question_id": 9000, "question": "What?", "answer": ["net", "net"], "image": path,
             "dataset": "vqa"}]  # fmt: skip
    folders.write(tmp_path / "vqa_v2", "vqa_train.json", rows)
    folders.images(tmp_path / "vqa_v2", path)
    _, _, fields = imported(tmp_path, "vqa_v2", split="train")
    asked = [{"id": "9000", "question": "What?", "answers": ["net", "net"], "type": ""}]
    assert fields == [{"image_id": "9", "questions": asked}]
    rows[0] |= {"answer": "Green", "image": "image/2.jpg", "dataset": "vg"}
    folders.write(tmp_path / "visual_genome_vqa", "vg_qa.json", rows)
    folders.images(tmp_path / "visual_genome_vqa", "VG_100K/1.jpg", "VG_100K_2/2.jpg")
    _, rows, fields = imported(tmp_path, "visual_genome_vqa")
    assert seeds(rows) == [1] and fields[0]["questions"][0]["answers"] == ["Green"]


def test_visual_genome(tmp_path):
    _, rows, fields = imported(tmp_path, "visual_genome")
    assert names(rows, "visual_genome", "train") == ["1", "2"] and seeds(rows) == [0, 1]
    assert rows[1]["texts"] == ["the clock is green 2 0", "the clock is green 2 1"]
    assert fields[1] == {
        "image_id": "2",
        "region_ids": [1382, 1383],
        "boxes": [[4, 0, 20, 10], [4, 1, 20, 10]],
    }
    _, rows, fields = imported(tmp_path, "visual_genome_vqa")
    assert names(rows, "visual_genome_vqa", "train") == ["1", "2"]
    asked = [
        {"id": "986770", "question": "What color is the clock?", "answers": ["Green."], "type": ""}
    ]
    assert fields[1] == {"image_id": "2", "questions": asked}


def test_visdial_with_texts_in_place_of_numbers(tmp_path, capsys):
    _, rows, fields = imported(tmp_path, "visdial")
    assert names(rows, "visdial", "val") == ["185565", "284024"]
    assert rows[0]["texts"] == ["a bus on a street"] == [fields[0]["caption"]]
    assert fields[0]["rounds"] == [
        {"question": "is it sunny", "answer": "yes", "options": ["no", "2 men", "yes", "maybe"],
         "answer_index": 2},
        {"question": "any people", "answer": "2 men", "options": ["2 men", "maybe", "yes", "no"],
         "answer_index": 0, "relevance": [1.0, 0.4, 0.0, 0.0]},
    ]  # fmt: skip
    assert not any("relevance" in turn for turn in fields[1]["rounds"])
    capsys.readouterr()
    (tmp_path / "visdial" / "visdial_1.0_val_dense_annotations.json").unlink()
    _, _, fields = imported(tmp_path, "visdial")
    assert all("relevance" not in turn for turn in fields[0]["rounds"])
    assert "no visdial_1.0_val_dense_annotations.json in" in capsys.readouterr().err


def test_visdial_train_and_test(tmp_path):
    """Images of train are in either of COCO's folders; the last round of test has no answer."""
    source = tmp_path / "visdial"
    turns = [{"question": 0, "answer": 0}, {"question": 0, "answer_options": [1, 0]}]
    data = {"questions": ["is it"], "answers": ["no", "yes"]}
    for split, number, dialog in [("train", 9, turns[:1]), ("test", 7, turns)]:
        dialogs = [{"image_id": number, "caption": "a bus", "dialog": dialog}]
        value = {"split": split, "data": data | {"dialogs": dialogs}}
        folders.write(source, f"visdial_1.0_{split}.json", value)
    folders.images(source, "train2014/COCO_train2014_000000000001.jpg",
                   "val2014/COCO_val2014_000000000009.jpg",
                   "VisualDialog_test2018/VisualDialog_test2018_000000000007.jpg")  # fmt: skip
    assert seeds(imported(tmp_path, "visdial", split="train")[1]) == [1]
    _, rows, fields = imported(tmp_path, "visdial", split="test")
    assert seeds(rows) == [2]
    assert fields[0]["rounds"] == [
        {"question": "is it", "answer": "no", "options": [], "answer_index": None},
        {"question": "is it", "answer": "", "options": ["yes", "no"], "answer_index": None},
    ]


def test_nlvr2_has_two_images_in_a_record(tmp_path):
    manifest, rows, fields = imported(tmp_path, "nlvr2")
    assert names(rows, "nlvr2", "train") == ["train-850-0", "train-850-2"]
    records = list(open_dataset(str(next(tmp_path.glob("out-*"))), "train", ["second_image"]))
    assert [record["image"] for record in records] == [found.jpeg(0), found.jpeg(2)]
    assert [record["second_image"] for record in records] == [found.jpeg(1), found.jpeg(3)]
    group = "train-850-0"  # without the number of the pair
    assert fields[0]["statements"] == [
        {"id": "train-850-0-0", "statement": "A dog.", "label": False, "group": group},
        {"id": "train-850-0-1", "statement": "Two cats.", "label": True, "group": "train-850-1"},
    ]
    assert fields[1]["statements"][0]["group"] == group
    assert manifest["duplicates"] == {"exact": 0, "near": 0}


def test_nlvr2_dev_has_no_inner_folders_and_may_have_no_labels(tmp_path):
    row = {"identifier": "dev-850-0-0", "sentence": "A dog."}
    folders.write(tmp_path / "nlvr2", "dev.json", (row,))
    folders.images(tmp_path / "nlvr2", *(f"dev/dev-850-0-img{side}.png" for side in (0, 1)))
    _, rows, fields = imported(tmp_path, "nlvr2", split="dev")
    assert names(rows, "nlvr2", "dev") == ["dev-850-0"]
    assert fields[0]["statements"] == [
        {"id": "dev-850-0-0", "statement": "A dog.", "label": None, "group": "dev-850-0"}
    ]


def test_pairs_that_share_an_image_are_no_duplicates(tmp_path):
    folders.nlvr2(tmp_path / "nlvr2")
    place = tmp_path / "nlvr2" / "images" / "train" / "10"
    (place / "train-850-2-img0.png").write_bytes(found.jpeg(0))  # as that of the first pair
    assert imported(tmp_path, "nlvr2")[0]["duplicates"] == {"exact": 0, "near": 0}
    (place / "train-850-2-img1.png").write_bytes(found.jpeg(1))
    assert imported(tmp_path, "nlvr2")[0]["duplicates"]["exact"] == 1


def test_units_do_not_change_rows_or_keys(tmp_path):
    _, rows, _ = imported(tmp_path, "nocaps")
    manifest, again, _ = imported(tmp_path, "nocaps", records_per_unit=1, workers=2)
    assert len(manifest["units"]) == 3 and again == rows


def test_images_that_are_elsewhere(tmp_path):
    folders.coco_official(tmp_path / "coco")
    (tmp_path / "coco" / "images").rename(tmp_path / "pictures")
    _, rows, _ = imported(tmp_path, "coco", split="val2014", images=str(tmp_path / "pictures"))
    assert seeds(rows) == [0, 1]
    place = tmp_path / "pictures" / "val2014"  # the very folder of the images
    assert imported(tmp_path, "coco", split="val2014", images=str(place))[1] == rows
