"""A model, images in a folder and calls of the verbs on them, for the tests of these verbs."""

import io
import json
import pathlib

import numpy as np
import pytest
import tiny_dataset
from PIL import Image

from blip_jax.cli.main import main

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
