"""Exports in units of work: the same files however they are run, also after an interruption."""

import json
import os
import pathlib

import numpy as np
import pyarrow.parquet
import pytest
import scored_dataset
import tiny_dataset
from test_beam_runners import content

from blip_jax.capfilt import export, export_plan, image_index, score_reader, writers
from blip_jax.cli.main import main
from blip_jax.runtime import work_units
from blip_jax.runtime.beam import BeamConfig, UnitStopped

FORMATS = ("jsonl", "parquet", "webdataset", "blip")
SHARD = 40
CHOSEN = np.array([[row, text] for row in range(0, 240, 3) for text in (1, 0, 1)], np.int32)[::-1]
BROKEN = 45  # images of the last component, of which none can be used


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """80 images with selected texts, 240 without scores, and 45 that are no images."""
    folder = tmp_path_factory.mktemp("mixture")
    web = scored_dataset.build(folder, ("large", "small"))
    np.save(folder / "chosen.npy", CHOSEN)
    records = [{"key": f"no {i}", "image": b"no", "texts": ["a"], "truth": ""}
               for i in range(BROKEN)]  # fmt: skip
    components = [
        {"name": "scored", "dataset": web.images, "scores": web.scores, "selected": "chosen.npy"},
        {"name": "plain", "dataset": web.images},
        {"name": "broken", "dataset": tiny_dataset.write(str(folder / "broken"), records)},
    ]
    (folder / "mixture.json").write_text(json.dumps({"components": components}))
    return str(folder / "mixture.json")


def run(mixture, out, to, *options):
    return main(["export", mixture, str(out), f"--to={to}", f"--shard={SHARD}", *options])


@pytest.fixture(scope="module")
def whole(mixture, tmp_path_factory):
    """Folders by format, each written by one process."""
    folder = tmp_path_factory.mktemp("whole")
    for to in FORMATS:
        assert run(mixture, folder / to, to, "--workers=1") == 1
        assert sorted(os.listdir(folder)) == sorted(FORMATS[: FORMATS.index(to) + 1])
    return folder


def test_units_divide_the_images(whole):
    """The 365 candidates are in ten units; one image of `plain` and those of `broken` drop out."""
    lines = [json.loads(x) for x in (whole / "jsonl" / "data.jsonl").read_text().splitlines()]
    names = [line["component"] for line in lines]
    assert names == ["scored"] * 80 + ["plain"] * 239
    assert [x["key"][-7:] for x in lines[:3]] == ["0000000", "0000003", "0000006"]
    assert all(len(line["texts"]) == 2 for line in lines[:80])
    files = sorted(path.name for path in (whole / "parquet" / "data").iterdir())
    assert files == [f"train-{i:05d}.parquet" for i in range(8)]
    rows = [pyarrow.parquet.read_metadata(whole / "parquet" / "data" / x).num_rows for x in files]
    assert rows == [40, 40, 39, 40, 40, 40, 40, 40]
    assert sorted(x.name for x in (whole / "webdataset").glob("*.tar"))[-1] == "00007.tar"
    folders = {line["image"].rpartition("/")[0] for line in lines}
    assert {f"images/scored/0000{i}" for i in range(2)} < folders and len(folders) == 8


@pytest.mark.parametrize("to", FORMATS)
def test_processes_write_the_same(mixture, whole, tmp_path, to):
    assert run(mixture, tmp_path / "out", to, "--workers=2") == 1
    assert content(tmp_path / "out") == content(whole / to)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("to", FORMATS)
def test_beam_writes_the_same(mixture, whole, tmp_path, to):
    pytest.importorskip("apache_beam")
    assert run(mixture, tmp_path / "out", to, "--beam-runner=DirectRunner") == 1
    assert content(tmp_path / "out") == content(whole / to)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_run_that_was_stopped_resumes(mixture, whole, tmp_path, to, monkeypatch, capsys):
    out, begun, writer = tmp_path / "out", [], writers.FORMATS[to]
    write = writer.write

    def stop_in_the_third(self, rows):
        begun.append(self.unit)
        if len(begun) == 3:
            rows.throw(UnitStopped)
        write(self, rows)

    monkeypatch.setattr(writer, "write", stop_in_the_third)
    assert run(mixture, out, to, "--workers=1") == 0  # as after SIGTERM
    assert "stopped after 80 of 365 images; rerun the same command" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["out.unfinished"]
    units = sorted(os.listdir(tmp_path / "out.unfinished" / "units"))
    assert units == ["00000", "00001", "selection-00000.npy"]
    assert run(mixture, out, to, "--workers=1") == 1
    assert begun == [0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9]
    assert content(out) == content(whole / to)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_run_that_was_stopped_at_its_end_resumes(mixture, whole, tmp_path, to, monkeypatch):
    """All files are in their places, but the folder has not got its name."""
    out = tmp_path / "out"

    def stop(*unused):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "rename_folder", stop)
        assert run(mixture, out, to, "--workers=1") == 130
    assert os.listdir(tmp_path) == ["out.unfinished"]
    assert run(mixture, out, to) == 1
    assert content(out) == content(whole / to)


def test_a_move_that_was_stopped_is_completed(tmp_path):
    parts = [tmp_path / "units" / str(number) for number in range(3)]
    for number, part in enumerate(parts):
        (part / "images" / "web" / f"{number}").mkdir(parents=True)
        (part / "images" / "web" / f"{number}" / "a.png").touch()
        (part / "data.jsonl").write_text(f"{number}\n")
    result = tmp_path / "export"
    result.mkdir()
    export._collect(parts[:2], result, "jsonl")
    export._collect(parts, result, "jsonl")
    assert sorted(str(x.relative_to(result)) for x in result.rglob("*.*")) == [
        "data.jsonl", "images/web/0/a.png", "images/web/1/a.png", "images/web/2/a.png",
    ]  # fmt: skip
    assert (result / "data.jsonl").read_text() == "0\n1\n2\n"


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--to=parquet"], 'settings.to was "jsonl", now "parquet"'),
        (["--to=jsonl", "--images=none"], 'settings.images was "files", now "none"'),
        (["--to=jsonl", "--shard=41"], "settings.shard was 40, now 41"),
        (["--to=jsonl", "--component=plain"], 'settings.components was [], now ["plain"]'),
    ],
)
def test_other_options_for_a_folder_that_was_begun_are_refused(
    mixture, tmp_path, monkeypatch, capsys, options, changed
):
    stop_after_the_first(monkeypatch)
    assert run(mixture, tmp_path / "out", "jsonl", "--workers=1") == 0
    before = content(tmp_path)
    capsys.readouterr()
    argv = ["export", mixture, str(tmp_path / "out"), f"--shard={SHARD}", *options]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out.unfinished holds another run: " in error
    assert changed in error and "choose another folder, or rerun with what it was" in error
    assert content(tmp_path) == before


def stop_after_the_first(monkeypatch):
    begun, write = [], writers.Jsonl.write

    def stop_in_the_second(self, rows):
        begun.append(self.unit)
        if len(begun) == 2:
            raise UnitStopped
        write(self, rows)

    monkeypatch.setattr(writers.Jsonl, "write", stop_in_the_second)


def test_another_mixture_for_a_folder_that_was_begun_is_refused(
    mixture, tmp_path, monkeypatch, capsys
):
    stop_after_the_first(monkeypatch)
    assert run(mixture, tmp_path / "out", "jsonl", "--workers=1") == 0
    found = json.loads(pathlib.Path(mixture).read_text())
    found["components"][0]["selected"] = str(tmp_path / "other.npy")
    np.save(tmp_path / "other.npy", CHOSEN[:-1])
    for component in found["components"]:
        component["dataset"] = os.path.join(os.path.dirname(mixture), component["dataset"])
    (tmp_path / "other.json").write_text(json.dumps(found))
    assert run(str(tmp_path / "other.json"), tmp_path / "out", "jsonl") == 2
    assert "sources.scored.selected was" in capsys.readouterr().err


def test_a_unit_that_is_repeated_does_no_harm(mixture, whole, tmp_path, monkeypatch):
    """As runners of Beam do when they lose a result, or when their run was killed."""
    make_work, write, twins = export._unit_work, writers.Jsonl.write, []

    def make_two(*arguments):
        twins.append(make_work(*arguments))
        return make_work(*arguments)

    def write_twice(self, rows):
        write(self, rows)
        if self.unit == 1 and not repeated:
            repeated.append(self.unit)
            twins[0](1, lambda: True)

    repeated: list[int] = []
    monkeypatch.setattr(export, "_unit_work", make_two)
    monkeypatch.setattr(writers.Jsonl, "write", write_twice)
    assert run(mixture, tmp_path / "out", "jsonl", "--workers=1") == 1 and repeated
    twins[0](2, lambda: True)
    assert os.listdir(tmp_path) == ["out"]
    assert content(tmp_path / "out") == content(whole / "jsonl")


def test_a_unit_reads_only_its_rows(mixture, tmp_path, monkeypatch):
    """Of a selection of every third row, a third is read."""
    scores, images, read, get = [], [], score_reader.read_rows, image_index.read

    def read_rows(directory, split, rows):
        scores.append(list(rows))
        return read(directory, split, rows)

    def read_index(dataset, rows, only, *columns):
        if not columns:
            images.append(only.tolist())
        return get(dataset, rows, only, *columns)

    monkeypatch.setattr(score_reader, "read_rows", read_rows)
    monkeypatch.setattr(image_index, "read", read_index)
    out = tmp_path / "out"
    assert run(mixture, out, "jsonl", "--component=scored", "--workers=1") == 0
    wanted = [list(range(0, 120, 3)), list(range(120, 240, 3))]
    assert scores == wanted and images == wanted


def test_settings_of_beam_are_passed_on(mixture, tmp_path, monkeypatch):
    engines = []

    def finish(*arguments, **options):
        engines.append(arguments[4])
        work_units.finish_units(*arguments, **options)

    def run_here(numbers, make_work, config, folder, should_stop):
        work = make_work()
        for number in numbers:
            work(number, lambda: True)
            yield

    monkeypatch.setattr(export, "finish_units", finish)
    monkeypatch.setattr(work_units.beam, "run_units", run_here)
    beam = "--beam-runner=FlinkRunner", "--beam-options=--flink_master=HOST:8081"
    assert run(mixture, tmp_path / "out", "blip", "--workers=3", *beam) == 1
    assert engines[0].beam == BeamConfig("FlinkRunner", "--flink_master=HOST:8081")
    assert engines[0].workers == 3


@pytest.mark.parametrize("entries", [0, 1, 7])
def test_a_selection_is_sorted_and_its_rows_are_found(tmp_path, entries):
    selected = np.array([[5, 1], [2, 0], [5, 0], [2, 0], [9, 3], [2, 4], [0, 0]], np.uint32)
    path = str(tmp_path / "selection.npy")
    starts = export_plan._write_sorted(selected[:entries], path)
    wanted = np.unique(selected[:entries], axis=0)
    np.testing.assert_array_equal(np.load(path), wanted)
    rows = np.unique(wanted[:, 0])
    np.testing.assert_array_equal(wanted[starts[:-1], 0], rows)
    assert starts[-1] == len(wanted) and len(starts) == len(rows) + 1
