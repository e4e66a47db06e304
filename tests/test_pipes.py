"""A pipe where a file is wanted is refused, and not waited for."""

import os

import pytest

from blip_jax.capfilt import image_index
from blip_jax.checkpoints import huggingface_config, sources
from blip_jax.data.mixture import Component, load_selected
from blip_jax.runtime import files, fingerprint
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import evaluate


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.json", files.read_json),
        ("predictions.jsonl", evaluate.read_predictions),
        ("shard", fingerprint.file_digest),
        ("config.json", lambda path: huggingface_config.read_config(os.path.dirname(path))),
        ("model.pth", sources.check_source),
        ("index.parquet", lambda path: image_index.read(os.path.dirname(path), 3)),
        ("a.npy", lambda path: load_selected(Component("a", "images", selected=path), 3)),
    ],
)
def test_a_pipe_is_refused(tmp_path, name, read):
    pipe = str(tmp_path / name)
    os.mkfifo(pipe)
    with pytest.raises(UserError) as error:
        read(pipe)
    assert str(error.value) == f"{pipe} is a pipe, socket or device; give a regular file"
