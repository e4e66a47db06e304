"""The verbs on image files: files that are written, wrong calls in one line, and help."""

import io
import json
import pathlib
import subprocess
import sys

import commands_fixture
import numpy as np
import pytest
from commands_fixture import LENGTHS, ROOT, call, fails, names, picture

from blip_jax.cli.main import COMMANDS, main
from blip_jax.models import Model

elsewhere = commands_fixture.elsewhere
folder = commands_fixture.folder
trained = commands_fixture.trained
workdir = commands_fixture.workdir


# Files out.


def test_out_holds_the_rows_and_is_not_overwritten(capsys, workdir, folder):
    argv = ["caption", folder, "--model", workdir, *LENGTHS]
    expected, _ = call(capsys, *argv)
    out = pathlib.Path("rows.jsonl")
    assert call(capsys, *argv, "--out", out) == ([], [])
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == expected
    assert "été 犬 🐕.png" in out.read_text("utf-8")
    out.write_text("mine\n")
    line = fails(capsys, *argv, "--out", out)
    assert line == f"blip-jax caption: {out} exists already; --overwrite replaces it"
    assert out.read_text() == "mine\n"
    assert call(capsys, *argv, "--out", out, "--overwrite", "--batch-size=8") == ([], [])
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == expected


def test_side_cars_of_captions_are_what_match_reads(capsys, trained, workdir, folder):
    argv = ["caption", folder, "--model", workdir, *LENGTHS, "--num-captions=2"]
    rows, _ = call(capsys, *argv)
    assert call(capsys, *argv, "--sidecars") == ([], [])
    for row in rows:
        text = pathlib.Path(row["image"]).with_suffix(".txt").read_text("utf-8")
        assert text == "".join(f"{caption}\n" for caption in row["captions"])
    line = fails(capsys, *argv, "--sidecars")
    assert f"{folder}/0.txt exists already (and 10 more); --overwrite" in line
    assert call(capsys, *argv, "--sidecars", "--out=x.jsonl", "--overwrite") == ([], [])
    assert len(pathlib.Path("x.jsonl").read_text("utf-8").splitlines()) == 11

    written = {row["image"]: [c for c in row["captions"] if c.strip()] for row in rows}
    (folder / "3.txt").write_text("\ufeffa red square\n\n  a dog  \r\nthree\n", "utf-8")
    (folder / "4.txt").unlink()
    (folder / "5.txt").write_text("\n")
    written |= {f"{folder}/3.png": ["a red square", "a dog", "three"]}
    written |= {f"{folder}/4.png": [], f"{folder}/5.png": []}
    argv = ["match", folder, "--model", workdir, "--sidecars", "--batch-size=8"]
    found, err = call(capsys, *argv, status=1)
    pairs = [(image, text) for image, texts in written.items() for text in texts]
    assert [(row["image"], row["text"]) for row in found] == pairs
    direct = trained.match(*zip(*pairs))
    for name in ("probability", "cosine"):
        values = [row[name] for row in found]
        np.testing.assert_allclose(values, getattr(direct, name), rtol=0, atol=1e-5)
    empty = [image for image, texts in written.items() if not texts]
    assert len(err) == len(empty) + 1
    assert f"{folder}/4.png: {folder}/4.txt cannot be read (no such file or directory)" in err[0]


def test_images_that_would_share_a_side_car_are_refused(capsys, folder):
    picture(folder / "0.jpg", 1)
    line = fails(capsys, "caption", folder, "--model=none", "--sidecars")
    assert f"the captions of {folder}/0.jpg and {folder}/0.png would share a sidecar file" in line
    assert not list(folder.glob("*.txt"))


def test_ctrl_c_leaves_the_batches_that_are_done(capsys, workdir, folder, monkeypatch):
    captions = Model.captions

    def interrupted(self, images, decoding, *, start_index, **options):
        if start_index:
            raise KeyboardInterrupt
        return captions(self, images, decoding, start_index=start_index, **options)

    monkeypatch.setattr(Model, "captions", interrupted)
    argv = ["caption", folder, "--model", workdir, *LENGTHS, "--batch-size=8", "--out=x.jsonl"]
    _, err = call(capsys, *argv, status=130)
    assert err == ["blip-jax caption: stopped after 8 of 11 images"]
    rows = pathlib.Path("x.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["image"] for row in rows] == names(folder)[:8]


# What is wrong, in one line; before a model is loaded wherever it can be seen before.


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["caption"], "the following arguments are required: PATH, --model; see blip-jax caption"),
        (["caption", "FOLDER"], "required: --model"),
        (["caption", "FOLDER", "--model=x", "--beams=3"], "unrecognized arguments: --beams=3"),
        (["caption", "FOLDER", "--model=x", "--batch-size=0"], "'0' is no whole number"),
        (["caption", "FOLDER", "--model=x", "--top-p=much"], "--top-p: invalid float value"),
        (["caption", "FOLDER", "--model=x", "--top-p=0.9", "--num-beams=3"],
         "--num-beams cannot be combined with --top-p (sampling)"),
        (["caption", "FOLDER", "--model=x", "--temperature=2", "--method=greedy"],
         "--temperature needs sampling, but --method is 'greedy'"),
        (["caption", "FOLDER/none.png", "--model=x"], "FOLDER/none.png does not exist"),
        (["caption", "FOLDER/empty", "--model=x"], "folder FOLDER/empty holds no image file"),
        (["caption", "-", "--model=x"], "stdin has no path"),
        (["caption", "FOLDER", "--model=/none"], "/none does not exist"),
        (["caption", "FOLDER", "--model=x", "--out=FOLDER"], "--out FOLDER is a folder"),
        (["caption", "FOLDER", "--model=x", "--out=no/x.jsonl"], "the folder no does not exist"),
        (["match", "FOLDER", "--model=x"], "one of the arguments --text --sidecars is required"),
        (["match", "FOLDER", "--model=x", "--text=a", "--sidecars"], "not allowed with"),
        (["match", "FOLDER", "--model=x", "--text= "], "--text is empty"),
        (["match", "FOLDER", "--model=x", "--sidecars"], "no image has a sidecar file with texts"),
        (["answer", "FOLDER", "--model=x"], "required: --question"),
        (["answer", "FOLDER", "--model=x", "--question= "], "--question is empty"),
        (["answer", "FOLDER", "--model=x", "--question=why", "--k=3"], "--k needs --candidates"),
        (["answer", "FOLDER", "--model=x", "--question=why", "--candidates=none.txt"],
         "--candidates none.txt: no such file or directory"),
        (["answer", "FOLDER", "--model=x", "--question=why", "--candidates=FOLDER/blank.txt"],
         "blank.txt has no answer"),
        (["answer", "FOLDER", "--model=MODEL", "--question=why"],
         "a pretrain model cannot answer"),
        (["caption", "FOLDER", "--model=MODEL", "--top-p=3"], "--top-p is 3.0"),
        (["caption", "FOLDER", "--model=MODEL", "--num-captions=4"], "--num-captions is 4"),
        (["caption", "FOLDER", "--model=MODEL", "--image-size=17"], "17"),
        (["caption", "FOLDER", "--model=MODEL", "--quirk=none"], "unknown quirk 'none'"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line(capsys, workdir, folder, monkeypatch, argv, named):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    (folder / "empty").mkdir()
    (folder / "blank.txt").write_text("\n \n")
    argv = [arg.replace("FOLDER", str(folder)).replace("MODEL", workdir) for arg in argv]
    assert named.replace("FOLDER", str(folder)) in fails(capsys, *argv)


def test_a_file_that_cannot_be_written_is_named(capsys, workdir, folder):
    (folder / "1.txt").mkdir()
    argv = ["caption", folder, "--model", workdir, *LENGTHS, "--sidecars", "--overwrite"]
    assert f"{folder}/1.txt cannot be written (is a directory)" in fails(capsys, *argv)


# Help.


def test_usage_lists_the_verbs(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb, work in COMMANDS.items():
        assert f"  {verb:10} {work}" in out


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_verb(capsys, verb):
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: blip-jax {verb} ") and not err


def test_help_imports_no_jax():
    code = (
        "import sys; from blip_jax.__main__ import main\n"
        "assert main(['match', '--help']) == 0 and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_a_reader_that_stops_ends_quietly(workdir, folder):
    """As `head -0` does; a process of its own, whose stdout is a pipe that nobody reads."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blip_jax", "caption", str(folder), "--model", workdir, *LENGTHS],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 141 and "Traceback" not in err and "Exception" not in err
