"""Matrices as int8: what is rounded, by how much, and that such a folder is used like any other."""

import numpy as np
import pytest
import tiny_dataset
from etils import epath
from flax.traverse_util import flatten_dict

from blip_jax import models, nn
from blip_jax.checkpoints import int8, sources
from blip_jax.checkpoints.workdir import stored_tree
from blip_jax.cli.main import main

pytest.importorskip("qwix")


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """A workdir in float32, and the same as int8."""
    folder = tmp_path_factory.mktemp("int8")
    source, target = (str(folder / name) for name in ("float", "int8"))
    tiny_dataset.save(model("pretrain"), source)
    assert main(["convert", source, target, "--to=int8"]) == 0
    return source, target


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def test_each_output_channel_is_rounded_to_a_scale_of_its_own(folders):
    source, target = (models.load(folder).params for folder in folders)
    back, count = flatten_dict(target), 0
    for path, x in flatten_dict(source).items():
        axes = int8.summed_axes(path)
        if not axes:
            np.testing.assert_array_equal(back[path], x)
            continue
        scale = np.abs(x).max(axis=axes, keepdims=True) / 127
        assert np.all(np.abs(back[path] - x) <= 0.51 * scale) and back[path].dtype == np.float32
        count += 1
    assert count == 17


@pytest.mark.parametrize(
    ("model_type", "last"), [("pretrain", {"patch", "word"}), ("nlvr", {"merge_kernel"})]
)
def test_all_large_matrices_are_int8(model_type, last):
    """Of ViT-B and BERT-B: what stays float32 is under a hundredth."""
    config = models.preset("base")
    shapes = flatten_dict(nn.param_shapes(config, model_type))
    rounded = {path: x for path, x in shapes.items() if int8.summed_axes(path)}
    sizes = [sum(int(np.prod(x.shape)) for x in each.values()) for each in (shapes, rounded)]
    assert sizes[1] > 0.99 * sizes[0]
    assert last <= {name for path in rounded for name in path}
    for path, x in rounded.items():  # a channel for each layer and output
        channels = [n for axis, n in enumerate(x.shape) if axis not in int8.summed_axes(path)]
        assert np.prod(x.shape) // np.prod(channels) in (768, 1536, 3072), path


def test_the_folder_is_used_like_any_other(folders, images, tmp_path):
    source, target = (models.load(folder) for folder in folders)
    texts = ["a red circle", "two squares"]
    live, stored = (model.match(images, texts) for model in (source, target))
    for name in ("logits", "cosine"):
        difference = np.abs(getattr(live, name) - getattr(stored, name))
        assert 0 < difference.max() < 0.1
    again = sources.read(folders[1])
    assert again.momentum is None and again.queue is None
    assert main(["convert", folders[1], str(tmp_path / "back"), "--to=jax"]) == 0
    back = flatten_dict(sources.read(tmp_path / "back").params)
    for path, x in flatten_dict(again.params).items():
        np.testing.assert_array_equal(back[path], x)


def test_its_matrices_are_int8_on_disk(folders):
    folder = epath.Path(folders[1]) / "checkpoints"
    stored = flatten_dict(stored_tree(folder, 0)["params"])
    for path in flatten_dict(models.load(folders[0]).params):
        if int8.summed_axes(path):
            assert stored[*path, "int8"].dtype == np.int8
            assert stored[*path, "scale"].dtype == np.float32


def test_without_qwix_nothing_is_written(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["convert", folders[0], str(tmp_path / "out"), "--to=int8"]) == 2
    assert 'run pip install "blip-jax[int8]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
