"""An import that is killed, stopped or called again ends with the same dataset, byte for byte."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import malformed_files as found
import pytest

from blip_jax.cli.main import main
from blip_jax.data import ingest
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.ingest import output, units
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.runtime.lock import folder_lock

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "prepare.py"
SHARDS, RECORDS = 12, 40


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Shards, one without any record that can be used and one without any."""
    folder = tmp_path_factory.mktemp("in")
    found.write_shards(folder, SHARDS, RECORDS, broken=7)
    found.write_tar(folder / "00002-none.tar", [("0", {"jpg": b"", "txt": b"a"})])
    found.write_tar(folder / "00012-empty.tar", [])
    return folder


def run(source, folder, **fields):
    config = ingest.IngestConfig(source=str(source), **{"workers": 1, **fields})
    ingest.run(config, str(folder))


@pytest.fixture(scope="module")
def whole(tars, tmp_path_factory):
    """The files of an import that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(tars, folder)
    return content(folder)


def content(folder):
    assert not any(path.is_dir() for path in folder.iterdir())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(source, folder, *fields):
    argv = [sys.executable, "-m", "blip_jax", "prepare", f"--config={CONFIG}"]
    argv += [f"--workdir={folder}", f"--config.source={source}", *fields]
    return subprocess.Popen(
        argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def children(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_counts_and_the_shards(tars, whole, tmp_path):
    manifest = json.loads(whole["manifest.json"])
    assert manifest["records_read"] == SHARDS * RECORDS + 1
    assert manifest["records_read"] == manifest["rows"] + sum(manifest["skipped"].values())
    assert len(whole["skipped.jsonl"].splitlines()) == sum(manifest["skipped"].values())
    assert [name for name in whole if "-of-00012" in name] and len(manifest["units"]) == 14
    assert not [name for name in whole if name.startswith(".incomplete")]


def test_several_processes_write_the_same(tars, whole, tmp_path):
    process = command(tars, tmp_path / "out", "--config.workers=2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "records read" in out, err
    assert content(tmp_path / "out") == whole


@pytest.mark.slow
def test_killed_at_random_moments(tars, whole, full, tmp_path):
    """SIGKILL to the parent alone: its workers must end by themselves.

    With --full 20,000 records in 40 shards, 2 % of them broken, and 25 kills.
    """
    folder, chance = tmp_path / "out", random.Random(0)
    if full:
        tars = tmp_path / "in"
        found.write_shards(tars, 40, 500)
        run(tars, tmp_path / "whole")
        whole = content(tmp_path / "whole")
    for _ in range(25 if full else 6):
        process = command(tars, folder, "--config.workers=2")
        goal = len(list(folder.glob("units/0*.json"))) + chance.choice([0, 1, 1, 2])
        while process.poll() is None and len(list(folder.glob("units/0*.json"))) < goal:
            time.sleep(0.005)
        time.sleep(chance.random() * (2 if full else 0.1))
        workers = children(process.pid) if process.poll() is None else []
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 10
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, workers))
    run(tars, folder)
    assert content(folder) == whole


STEPS = ["_write_index", "_write_skipped", "_write_metadata", "write_json"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("behind", [False, True])
def test_ended_within_the_finish(tars, whole, tmp_path, monkeypatch, step, behind):
    """Before or behind each of its steps."""
    folder, real = tmp_path / "out", getattr(output, step)

    class Killed(BaseException):
        pass

    def end(*args):
        if behind:
            real(*args)
        raise Killed

    monkeypatch.setattr(output, step, end)
    with pytest.raises(Killed):
        run(tars, folder)
    monkeypatch.setattr(output, step, real)
    run(tars, folder)
    assert content(folder) == whole


def test_ended_between_two_names(tars, whole, tmp_path, monkeypatch):
    """While the shards get their names: some have them."""
    folder, paths, calls = tmp_path / "out", units.path_of, []

    def path_of(parts, unit, kind):
        calls.append(kind)
        if calls.count(units.ROWS) == SHARDS + 2 + 5:  # once while a unit is written
            raise KeyboardInterrupt
        return paths(parts, unit, kind)

    monkeypatch.setattr(units, "path_of", path_of)
    with pytest.raises(KeyboardInterrupt):
        run(tars, folder)
    named = list(folder.glob("imported-*"))
    assert 0 < len(named) < SHARDS
    monkeypatch.undo()
    run(tars, folder)
    assert content(folder) == whole


def test_ctrl_c_is_one_line_and_the_same_command_resumes(tars, whole, tmp_path):
    folder = tmp_path / "out"
    process = command(tars, folder, "--config.workers=2")
    while process.poll() is None and not list(folder.glob("units/0*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:  # it was quicker
        pytest.skip("the import ended before it was stopped")
    assert process.returncode == 130 and out == ""
    line = err.splitlines()[-1]
    assert line.startswith("blip-jax prepare: stopped after ") and "Traceback" not in err
    assert len(list(folder.glob("units/0*.json"))) >= 1
    run(tars, folder)
    assert content(folder) == whole


def test_called_again_and_with_other_settings(tars, whole, tmp_path, capsys):
    folder = tmp_path / "out"
    run(tars, folder)
    said = capsys.readouterr().out
    times = {path: os.stat(path).st_mtime_ns for path in folder.iterdir()}
    run(tars, folder)
    assert capsys.readouterr().out == said
    assert {path: os.stat(path).st_mtime_ns for path in folder.iterdir()} == times
    with pytest.raises(UserError, match="settings.min_side was 0, now 9; choose another folder"):
        run(tars, folder, min_side=9)
    with pytest.raises(UserError, match="holds another dataset"):
        (folder / "manifest.json").unlink()
        run(tars, folder)


def test_what_changes_meanwhile_is_named(tmp_path, monkeypatch):
    for name in "ab":
        found.write_tar(tmp_path / "in" / f"{name}.tar", [("0", {"jpg": found.jpeg(0)})])
    with monkeypatch.context() as context:
        context.setattr(output, "finish", lambda *args: 1 / 0)  # ended before its last step
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "in", tmp_path / "out")
    found.write_tar(tmp_path / "in" / "b.tar", [(n, {"jpg": found.jpeg(0)}) for n in "01234567"])
    with pytest.raises(
        UserError, match=r"files\..*b.tar was .* bytes, .*, now .* bytes, .*; choose another folder"
    ):
        run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="writes to a local folder"):
        run(tmp_path / "in", "gs://bucket/out")


def test_files_of_a_folder_that_were_edited_meanwhile_are_named(tmp_path):
    """Of equal sizes, so that only the time of the change tells."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(found.jpeg(0))
        (folder / f"{name}.txt").write_text("a dog")
    run(folder, tmp_path / "out")
    run(folder, tmp_path / "out")
    (folder / "b.txt").write_text("a cat")
    with pytest.raises(UserError, match=f"files.{folder} was .*, now .*; choose another folder"):
        run(folder, tmp_path / "out")


def test_two_imports_do_not_use_one_folder(tars, tmp_path):
    with (
        folder_lock(tmp_path / "out", "prepare"),
        pytest.raises(UserError, match=r"out is in use by process \d+ .*blip-jax prepare"),
    ):
        run(tars, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_import_into_a_folder_of_other_work_is_refused(tars, tmp_path):
    check_fingerprint(tmp_path / "out", "train", {}, begun=False)
    before = content(tmp_path / "out")
    with pytest.raises(UserError, match="holds a run of blip-jax train; choose another folder"):
        run(tars, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_refused_import_leaves_nothing(tmp_path):
    """Neither of a file without texts, found by the plan, nor of records that are all skipped."""
    found.write_tar(tmp_path / "a.tar", [(name, {"jpg": found.jpeg(0)}) for name in "01"])
    (tmp_path / "b.csv").write_text("url,title\na,b")
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "kept").touch()
    reason = "0 of 2 records can be used: empty text 2; the first: .*; --config.allow"
    for name, message in (("a.tar", reason), ("b.csv", "no text among its fields")):
        for folder in (tmp_path / "out", existing):
            with pytest.raises(UserError, match=message):
                run(tmp_path / name, folder)
        assert not (tmp_path / "out").exists()
        assert [path.name for path in existing.iterdir()] == ["kept"]
    run(tmp_path / "a.tar", tmp_path / "out", allow_no_text=True)


def test_a_folder_that_grows_meanwhile_is_named(tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    for number in (1, 3, 5):
        (images / f"{number}.jpg").write_bytes(found.jpeg(number))
        (images / f"{number}.txt").write_text("a")
    real, calls = units.process_unit, []

    def do(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(units, "process_unit", do)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", records_per_unit=2)
    monkeypatch.undo()
    (images / "0.jpg").write_bytes(found.jpeg(0))
    with pytest.raises(UserError, match=f'files.{images} was "6 files, .*, now "7 files, '):
        run(images, tmp_path / "out", records_per_unit=2)
    (images / "0.jpg").unlink()
    run(images, tmp_path / "out", records_per_unit=2)
    keys = [row["key"].decode() for row in open_dataset(str(tmp_path / "out"), "train")]
    assert keys == ["images-00000--1", "images-00000--3", "images-00001--5"]


def test_two_sources_have_their_names_and_keys_of_their_own(tmp_path):
    for name in "ab":
        found.write_tar(tmp_path / name / "0.tar", [("0", {"jpg": found.jpeg(0), "txt": b"a"})])
    run(f"cc={tmp_path}/a/*.tar,{tmp_path}/b", tmp_path / "out")
    rows = list(open_dataset(str(tmp_path / "out"), "train"))
    assert [row["source"] for row in rows] == [b"cc", b"b"]
    assert [row["key"] for row in rows] == [b"0--0", b"0-2--0"]


def test_each_source_has_columns_of_its_own(tmp_path):
    (tmp_path / "0.png").write_bytes(found.jpeg(0))
    (tmp_path / "photos.csv").write_text("photo,words\n0.png,a red ball\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "0.png", "caption": "a cube"}))
    sources = f"a={tmp_path / 'photos.csv'},{tmp_path / 'pairs.jsonl'}"
    columns = ingest.ColumnsConfig(image="a=photo", text="caption,a=words")
    run(sources, tmp_path / "out", columns=columns)
    rows = open_dataset(str(tmp_path / "out"), "train")
    texts = {to_text(row["source"]): to_text(row["texts"][0]) for row in rows}
    assert texts == {"a": "a red ball", "pairs": "a cube"}
    with pytest.raises(UserError, match=r"config\.columns\.key names the source 'b', which config"):
        run(sources, tmp_path / "other", columns=ingest.ColumnsConfig(key="b=id"))


def test_the_command(tars, whole, tmp_path, capsys):
    argv = ["prepare", f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}"]
    assert main([*argv, f"--config.source={tars}", "--config.workers=1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["records", "read", f"{SHARDS * RECORDS + 1}"]
    assert content(tmp_path / "out") == whole
    assert main([*argv, "--config.source=/nowhere.tar"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
