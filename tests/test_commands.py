"""The verbs on image files: rows in order, what does not decode is named, no file is lost."""

import io
import json
import pathlib
import sys

import commands_fixture
import numpy as np
import pytest
from commands_fixture import LENGTHS, broken, call, names, picture

from blip_jax import models
from blip_jax.cli.main import main
from blip_jax.models import Model

elsewhere = commands_fixture.elsewhere
folder = commands_fixture.folder
trained = commands_fixture.trained
vqa = commands_fixture.vqa
workdir = commands_fixture.workdir


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
