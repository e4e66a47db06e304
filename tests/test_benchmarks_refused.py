"""Folders of benchmarks with something missing or wrong: one line, or a counted image."""

import importlib.util
import json

import benchmark_folders as folders
import pytest
from ingest_fixture import run

from blip_jax.data import ingest
from blip_jax.data.ingest import units
from blip_jax.data.ingest.benchmarks import BENCHMARKS
from blip_jax.runtime.beam import UnitStopped
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted

HAS_AV = importlib.util.find_spec("av") is not None  # clips cannot be made without
CLIPS = [name for name, benchmark in BENCHMARKS.items() if benchmark.has_clips]
ALL = [name for name in sorted(folders.FOLDERS) if HAS_AV or name not in CLIPS]


def made(tmp_path, benchmark):
    """(the folder of a benchmark, its split, the file that is read first)."""
    make, split, file = folders.FOLDERS[benchmark][:3]
    make(tmp_path / benchmark)
    return tmp_path / benchmark, split, tmp_path / benchmark / file


def refusal(tmp_path, benchmark, split, **fields):
    """The line that an import ends with; nothing is left of it."""
    source = tmp_path / benchmark
    config = ingest.IngestConfig(source=str(source), benchmark=benchmark, split=split, workers=1)
    with pytest.raises(UserError) as error:
        ingest.run(replace(config, **fields), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("[!.]*"))
    line = str(error.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize("benchmark", ALL)
def test_a_missing_file_is_named(tmp_path, benchmark):
    _, split, file = made(tmp_path, benchmark)
    file.unlink()
    line = refusal(tmp_path, benchmark, split)
    assert f"has no {file.name}" in line and BENCHMARKS[benchmark].url in line


@pytest.mark.parametrize("benchmark", ALL)
def test_a_truncated_file_is_named(tmp_path, benchmark):
    _, split, file = made(tmp_path, benchmark)
    text = file.read_bytes()
    for size in (0, 1, len(text) // 2, len(text) - 3):
        file.write_bytes(text[:size])
        line = refusal(tmp_path, benchmark, split)
        if size or benchmark != "nlvr2":  # no line at all is no cut line
            assert str(file) in line and "is cut off" in line
            assert "download it again from" in line


@pytest.mark.parametrize("benchmark", ALL)
@pytest.mark.parametrize("value", [{"images": 7}, [], [{"a": 1}], {}, 3, "x", None, [[1]]])
def test_a_wrong_file_is_named(tmp_path, benchmark, value):
    _, split, file = made(tmp_path, benchmark)
    file.write_text(json.dumps(value))
    line = refusal(tmp_path, benchmark, split)
    assert line.startswith(str(file))
    assert f"expected the file of this name from {BENCHMARKS[benchmark].url}" in line


@pytest.mark.parametrize("benchmark", ALL)
def test_a_missing_and_a_broken_image_are_counted_and_named(tmp_path, benchmark):
    source, split, _ = made(tmp_path, benchmark)
    image, records = folders.FOLDERS[benchmark][3:]
    what = "video" if benchmark in CLIPS else "image"
    for name, reason in [("broken", f"undecodable {what}"), ("gone", f"missing {what}")]:
        if name == "broken":
            (source / image).write_bytes(b"no image")
        else:
            (source / image).unlink()
        manifest, rows, _ = run(tmp_path, source, name, benchmark=benchmark, split=split)
        assert manifest["skipped"] == {reason: 1} and len(rows) == records - 1
        skipped = json.loads((tmp_path / name / "skipped.jsonl").read_text())
        assert skipped["detail"].startswith(image)


@pytest.mark.parametrize("benchmark", ALL)
def test_a_missing_folder_of_images_is_named(tmp_path, benchmark):
    source, split, _ = made(tmp_path, benchmark)
    for path in [path for path in source.iterdir() if path.is_dir()]:
        if [file for file in path.rglob("*") if file.suffix in (".jpg", ".png", ".mp4", ".avi")]:
            path.rename(tmp_path / path.name)
    line = refusal(tmp_path, benchmark, split)
    what = "clips" if benchmark in CLIPS else "images"
    assert f"{source} has no folder of {what}" in line and "--config.images" in line


def test_settings_that_do_not_fit(tmp_path):
    made(tmp_path, "nocaps")
    line = refusal(tmp_path, "nocaps", "train")
    assert line == "nocaps has no split 'train'; known: val, test"
    (tmp_path / "coco").write_text("")
    assert "which is not a folder; give the folder of coco" in refusal(tmp_path, "coco", "val")
    for fields, message in [
        ({"benchmark": "vqa"}, "benchmark is 'vqa' (str); did you mean 'vqa_v2'?"),
        ({"benchmark": "coco", "format": "json"}, "config.format is given, but the files of coco"),
        ({"benchmark": "coco", "columns.image": "x"}, "config.columns.image is given"),
    ]:
        with pytest.raises(UserError) as error:
            replace(ingest.IngestConfig(source="x"), **fields)
        assert message in str(error.value)


def test_swapped_files_of_vqa(tmp_path):
    source, _, questions = made(tmp_path, "vqa_v2")
    answers = source / "v2_mscoco_val2014_annotations.json"
    found = json.loads(answers.read_text())
    answers.write_text(json.dumps(found | {"annotations": found["annotations"][:1]}))
    line = refusal(tmp_path, "vqa_v2", "val")
    assert line.startswith(f"{answers} has no answers to question 262148000 of {questions}")
    answers.write_text(json.dumps(found | {"data_subtype": "train2014"}))
    line = refusal(tmp_path, "vqa_v2", "val")
    assert f"{answers} has the data_subtype 'train2014', not 'val2014'" in line
    answers.unlink()
    line = refusal(tmp_path, "vqa_v2", "val")
    assert f"{source} has no v2_mscoco_val2014_annotations.json, from which vqa_v2 val" in line


def test_files_that_do_not_fit_each_other(tmp_path):
    source, _, _ = made(tmp_path, "visual_genome")
    folders.write(
        source, "image_data.json", [{"image_id": 1, "url": "https://a.b/VG_100K_2/1.jpg"}]
    )
    assert "image_data.json lacks the image 2 of" in refusal(tmp_path, "visual_genome", "train")
    source, _, file = made(tmp_path, "visdial")
    name = "visdial_1.0_val_dense_annotations.json"
    dense = [{"image_id": 185565, "round_id": 2, "gt_relevance": [1.0]}]
    folders.write(source, name, dense)
    assert f"{name} does not fit the options of image 185565" in refusal(tmp_path, "visdial", "val")
    document = json.loads(file.read_text())
    document["data"]["answers"] = ["no"]
    folders.write(source, file.name, document)
    line = refusal(tmp_path, "visdial", "val")
    assert "has a dialog of image 185565 with a question or answer that is not in its lists" in line
    folders.write(source, file.name, document | {"split": "test2018"})
    assert "has the split 'test2018', not 'val'" in refusal(tmp_path, "visdial", "val")


@pytest.mark.parametrize(
    ("field", "value"),
    [("question", -1), ("answer", True), ("answer_options", [0, 3, -2, 2]), ("gt_index", 4),
     ("gt_index", -1), ("gt_index", "2")],
)  # fmt: skip
def test_numbers_of_a_dialog_that_name_no_text(tmp_path, field, value):
    _, _, file = made(tmp_path, "visdial")
    document = json.loads(file.read_text())
    document["data"]["dialogs"][0]["dialog"][0][field] = value
    file.write_text(json.dumps(document))
    line = refusal(tmp_path, "visdial", "val")
    assert "has a dialog of image 185565 with a question or answer that is not in" in line


@pytest.mark.parametrize("value", [-0.5, "1.0", True, float("nan"), 10**400])
def test_relevance_that_is_no_number(tmp_path, value):
    source, _, _ = made(tmp_path, "visdial")
    name = "visdial_1.0_val_dense_annotations.json"
    dense = [{"image_id": 185565, "round_id": 2, "gt_relevance": [1.0, value, 0.0, 0.0]}]
    folders.write(source, name, dense)
    assert f"{name} has an element 0 in its list without" in refusal(tmp_path, "visdial", "val")


def test_a_file_of_another_split_or_dataset(tmp_path):
    source, _, file = made(tmp_path, "nlvr2")
    file.rename(source / "data" / "dev.json")
    line = refusal(tmp_path, "nlvr2", "dev")
    assert "has the identifier 'train-850-0-0'" in line and "dev-SET-PAIR-SENTENCE" in line
    source, _, file = made(tmp_path, "coco")
    (source / "dataset_coco.json").write_text(
        json.dumps(json.loads(file.read_text()) | {"dataset": "flickr8k"})
    )
    assert "is of the dataset 'flickr8k'" in refusal(tmp_path, "coco", "train")


def test_the_import_resumes_and_a_changed_file_is_refused(tmp_path, monkeypatch):
    source, split, file = made(tmp_path, "nocaps")
    config = ingest.IngestConfig(
        source=str(source), benchmark="nocaps", split=split, workers=1, records_per_unit=1
    )
    real, done = units.process_unit, []

    def stop_after_two(unit, *rest):
        if len(done) == 2:
            raise UnitStopped
        done.append(unit.number)
        return real(unit, *rest)

    monkeypatch.setattr(units, "process_unit", stop_after_two)
    with pytest.raises(Interrupted):
        ingest.run(config, str(tmp_path / "out"))
    monkeypatch.setattr(units, "process_unit", lambda unit, *rest: (
        done.append(unit.number), real(unit, *rest))[1])  # fmt: skip
    manifest, rows, _ = run(
        tmp_path, source, "out", benchmark="nocaps", split=split, records_per_unit=1
    )
    assert done == [0, 1, 2] and len(rows) == 3
    assert manifest["benchmark"]["read"] == {"images": 3, "captions": 30}
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match="nocaps_val_4500_captions.json"):
        ingest.run(config, str(tmp_path / "out"))
