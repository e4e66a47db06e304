"""The README's Python example, run as it is written on models with random weights."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import tiny
from PIL import Image

from blip_jax import convert
from blip_jax.data.tokenizer import train_wordpiece

README = pathlib.Path(__file__).parents[1] / "README.md"
VISION = {"image_size": 32, "patch": 8}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that the example names, as the working directory."""
    words = ["a photo of the colour is it sunny what doing yes sleeping dog asleep beach at noon"]
    tokenizer = train_wordpiece(words, str(tmp_path / "words"), 120)
    rng = np.random.default_rng(0)
    for name in ("dog.jpg", "beach.png"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    for kind in ("captioner", "retrieval", "vqa"):
        med = {"vocab": tokenizer.vocab_size, "max_length": 40}
        config = tiny.config(vit=VISION, med=med)
        if kind == "vqa":
            config = dataclasses.replace(
                config, med=dataclasses.replace(config.med, sharing="none")
            )
        checkpoint = convert.Checkpoint(
            kind, config, tiny.init(config, kind=kind), tokenizer=tokenizer
        )
        convert.write(checkpoint, str(tmp_path / f"blip-{kind}"), "hf")
    monkeypatch.chdir(tmp_path)


def test_the_example_runs(here, capsys):
    section = README.read_text("utf-8").split("## In Python")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own example
    assert len(capsys.readouterr().out.splitlines()) >= 8
    assert names["similarity"].shape == (2, 3)
    assert np.all((names["found"].probability > 0) & (names["found"].probability < 1))
    assert names["config"].vit.image_size == 32 and names["judge"].image_size == 64
