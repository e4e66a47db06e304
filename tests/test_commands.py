"""The verbs on image files: rows in order, what does not decode is named, no file is lost."""

import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_dataset
from PIL import Image

from blip_jax import models
from blip_jax.cli.main import COMMANDS, main
from blip_jax.models import Model

ROOT = pathlib.Path(__file__).parents[1]
LENGTHS = ["--min-length=1", "--max-length=16"]


@pytest.fixture(scope="module")
def trained(world):
    return tiny_dataset.trained(world, 0, tiny_dataset.PROMPT)


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    return tiny_dataset.save(trained, str(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def vqa(world, tmp_path_factory):
    """The model and its workdir."""
    model = tiny_dataset.trained(world, 0, model_type="vqa")
    return model, tiny_dataset.save(model, str(tmp_path_factory.mktemp("vqa")))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def picture(path, seed, side=16):
    """Writes an image file of noise; returns its pixels as they decode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def folder(tmp_path):
    """Eleven images right in it, one of them with a name of many scripts, and more below."""
    found = tmp_path / "images"
    for number in range(9):
        picture(found / f"{number}.png", number)
    picture(found / "9.JPG", 9)
    picture(found / "été 犬 🐕.png", 10)
    picture(found / "below" / "deep" / "a.png", 11)
    picture(found / "below" / "b.jpeg", 12, side=40)
    picture(found / ".hidden.png", 13)
    (found / "notes.md").write_text("no image")
    return found


def names(folder, recursive=False):
    """Paths of the images in the order that a folder's are worked on."""
    top = [*(f"{number}.png" for number in range(9)), "9.JPG"]
    below = ["below/b.jpeg", "below/deep/a.png"] if recursive else []
    return [f"{folder}/{name}" for name in [*top, *below, "été 犬 🐕.png"]]


def call(capsys, *argv, status=0):
    """(rows on stdout, lines on stderr)."""
    assert main([str(arg) for arg in argv]) == status
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err.splitlines()


def fails(capsys, *argv):
    rows, (line,) = call(capsys, *argv, status=2)
    assert not rows and line.startswith(f"blip-jax {argv[0]}: ")
    return line


def broken(folder):
    """A truncated PNG, a text by the name of a JPEG, and an empty file; returns their paths."""
    whole = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(whole, "png")
    contents = {"2cut.png": whole.getvalue()[:400], "5text.jpg": b"a dog\n", "8none.png": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


# Captions.


def test_captions_are_those_of_the_model_in_the_order_of_the_files(
    capsys, trained, workdir, folder
):
    rows, err = call(capsys, "caption", folder, "--model", workdir, *LENGTHS)
    assert [row["image"] for row in rows] == names(folder) and not err
    assert all(list(row) == ["image", "caption"] for row in rows)
    found = trained.caption(names(folder), min_length=1, max_length=16)
    texts = [caption.text for caption in found]
    assert [row["caption"] for row in rows] == texts and len(set(texts)) > 1


def test_folders_files_and_stdin_in_the_order_given(capsys, workdir, folder, monkeypatch):
    first, *_, last = names(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{last}\n\n{folder}/below/deep\n"))
    argv = ["caption", f"{folder}/9.JPG", "-", first, "--model", workdir, *LENGTHS]
    rows, _ = call(capsys, *argv)
    assert [row["image"] for row in rows] == [
        f"{folder}/9.JPG", last, f"{folder}/below/deep/a.png", first,
    ]  # fmt: skip


def test_recursive_looks_below_and_follows_no_link(capsys, workdir, folder):
    (folder / "below" / "circle").symlink_to(folder)
    rows, _ = call(capsys, "caption", folder, "--recursive", "--model", workdir, *LENGTHS)
    assert [row["image"] for row in rows] == names(folder, recursive=True)


def test_a_name_that_is_no_text_is_json_all_the_same(capsysbinary, workdir, tmp_path):
    path = tmp_path / "caf\udce9.png"  # Latin-1 on disk
    picture(path, 0)
    assert main(["caption", str(path), "--model", workdir, *LENGTHS]) == 0
    out = capsysbinary.readouterr().out
    assert json.loads(out.decode("utf-8"))["image"] == str(path)


@pytest.mark.parametrize(
    "options",
    [["--num-beams=2"], ["--top-p=0.9", "--num-captions=2"], ["--top-k=50", "--temperature=2"]],
)
def test_the_batch_size_does_not_matter(capsys, workdir, folder, options):
    broken(folder)  # these do not move the others' draws from batch to batch
    argv = ["caption", folder, "--model", workdir, *LENGTHS, *options, "--scores"]
    rows, _ = call(capsys, *argv, "--batch-size=32", status=1)
    small, _ = call(capsys, *argv, "--batch-size=8", status=1)
    assert len(rows) == len(small) == 11
    for one, other in zip(rows, small):
        key = "scores" if "scores" in one else "score"
        np.testing.assert_allclose(one.pop(key), other.pop(key), rtol=1e-5)
        assert one == other


def test_drawing_follows_the_seed_and_gives_scores(capsys, trained, workdir, folder):
    argv = ["caption", folder, "--model", workdir, *LENGTHS, "--top-p=0.9", "--num-captions=3"]
    rows, _ = call(capsys, *argv, "--scores", "--seed=5")
    assert list(rows[0]) == ["image", "captions", "scores"] and len(rows[0]["captions"]) == 3
    found = trained.captions(
        names(folder), top_p=0.9, num_captions=3, min_length=1, max_length=16, seed=5
    )
    assert [row["captions"] for row in rows] == [[x.text for x in texts] for texts in found]
    scores = [[x.score for x in texts] for texts in found]
    np.testing.assert_allclose([row["scores"] for row in rows], scores, rtol=1e-5)
    assert rows != call(capsys, *argv, "--scores", "--seed=6")[0]


def test_options_reach_the_model(capsys, trained, workdir, folder):
    argv = [
        "caption", folder / "0.png", "--model", workdir, "--num-beams=4", "--max-new-tokens=3",
        "--length-penalty=0.5", "--repetition-penalty=1.5", "--prompt=a red", "--image-size=32",
        "--scores",
    ]  # fmt: skip
    (row,), _ = call(capsys, *argv)
    resized = models.load(workdir, image_size=32)
    (found,) = resized.caption(
        str(folder / "0.png"), num_beams=4, max_new_tokens=3, length_penalty=0.5,
        repetition_penalty=1.5, prompt="a red",
    )  # fmt: skip
    assert row["caption"] == found.text
    np.testing.assert_allclose(row["score"], found.score, rtol=1e-5)


def test_what_does_not_decode_is_named_and_skipped(capsys, workdir, folder):
    whole, _ = call(capsys, "caption", folder, "--model", workdir, *LENGTHS)
    bad = broken(folder)
    argv = ["caption", folder, "--model", workdir, *LENGTHS, "--batch-size=8"]
    rows, err = call(capsys, *argv, status=1)
    assert rows == whole
    reasons = ["damaged or truncated", "not an image PIL can identify", "no bytes"]
    for line, path, why in zip(err, bad, reasons):
        assert line.startswith(f"blip-jax caption: {path}: {why}")
    assert err[3:] == ["blip-jax caption: 3 of 14 images skipped"]


def test_a_batch_of_nothing_whole(capsys, workdir, folder):
    bad = broken(folder)
    rows, err = call(
        capsys, "caption", *bad, "--model", workdir, *LENGTHS, "--out=x.jsonl", status=1
    )
    assert not rows and len(err) == 4 and not pathlib.Path("x.jsonl").exists()


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


# Match and answer.


def test_match_scores_each_text_with_each_image(capsys, trained, workdir, folder):
    texts = ["a red square", "two dogs", "A picture of a Circle!"]
    argv = ["match", folder, "--model", workdir, *(f"--text={text}" for text in texts)]
    rows, err = call(capsys, *argv, "--batch-size=8")
    assert not err and all(list(row) == ["image", "text", "probability", "cosine"] for row in rows)
    pairs = [(image, text) for image in names(folder) for text in texts]
    assert [(row["image"], row["text"]) for row in rows] == pairs
    direct = trained.match(names(folder), [texts] * 11)
    for name in ("probability", "cosine"):
        values = np.reshape([row[name] for row in rows], (11, 3))
        np.testing.assert_allclose(values, getattr(direct, name), rtol=0, atol=1e-5)


def test_answers_are_written_or_chosen(capsys, vqa, folder, tmp_path):
    model, workdir = vqa
    question = "How many circles?"
    argv = ["answer", folder, "--model", workdir, "--question", question, "--batch-size=8"]
    rows, _ = call(capsys, *argv)
    assert [row["image"] for row in rows] == names(folder)
    assert all(list(row) == ["image", "question", "answer", "score"] for row in rows)
    written = model.answer(names(folder), [question] * 11)
    answers = ["a red square", "two", "three circles", "blue"]
    file = tmp_path / "answers.txt"
    file.write_text("\n".join([*answers, "", "two"]))
    chosen, _ = call(capsys, *argv, f"--candidates={file}", "--k=3")
    picked = model.answer(names(folder), [question] * 11, answers, k=3)
    for found, direct in ((rows, written), (chosen, picked)):
        assert [(row["question"], row["answer"]) for row in found] == [
            (question, answer.text) for answer in direct
        ]
        scores = [row["score"] for row in found]
        np.testing.assert_allclose(scores, [answer.score for answer in direct], rtol=1e-5)
    assert {row["answer"] for row in chosen} <= set(answers)


# All batches have one shape.


@pytest.mark.parametrize("size", [8, 32])
def test_one_shape_for_all_batches(capsys, workdir, folder, monkeypatch, size):
    shapes = []
    captions = Model.captions

    def noted(self, images, decoding, **options):
        shapes.append((len(images), options["batch_size"]))
        return captions(self, images, decoding, **options)

    monkeypatch.setattr(Model, "captions", noted)
    call(capsys, "caption", folder, "--model", workdir, *LENGTHS, f"--batch-size={size}")
    assert shapes == ([(8, 8)] * 2 if size == 8 else [(16, 16)])  # 11 images; 16 is enough


# What is wrong, in one line; before a model is loaded wherever it can be seen before.


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["caption"], "the following arguments are required: PATH, --model; see blip-jax caption"),
        (["caption", "FOLDER"], "required: --model"),
        (["caption", "FOLDER", "--model=x", "--beams=3"], "unrecognized arguments: --beams=3"),
        (["caption", "FOLDER", "--model=x", "--batch-size=0"], "0 is not above 0"),
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
