"""Files of tensors: read lazily, strictly, and without running code."""

import json
import os
import pickle
import sys

import jax
import numpy as np
import pytest
import tiny
from test_checkpoints import HEADS, golden

from blip_jax import checkpoints, losses, nn
from blip_jax.checkpoints import original
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.runtime.errors import UserError

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(7, np.int64),
}


def same(found, want):
    assert found.keys() == want.keys()
    for name, array in want.items():
        assert found[name].dtype == array.dtype and found.shapes[name] == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.bin"])
def test_what_is_written_is_read(name, tmp_path):
    if not name.endswith(".safetensors"):
        pytest.importorskip("torch")
    path = str(tmp_path / "folder" / name)
    tensor_files.write(ARRAYS, path, {"blip_jax": {"n": 3}})
    found = tensor_files.read(path)
    same(found, ARRAYS)
    assert found.extras == {"blip_jax": {"n": 3}}
    assert os.listdir(tmp_path / "folder") == [name]


def test_npz(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    same(tensor_files.read(str(tmp_path / "x.npz")), ARRAYS)


@pytest.mark.parametrize("key", ["model", "state_dict", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_forms_of_pytorch_files(key, zipped, torch, tmp_path):
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    content = {key: state, "epoch": 3} if key else state
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = tensor_files.read(str(path))
    same(found, ARRAYS)
    assert found.extras == ({"epoch": 3} if key else {})


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_become_float32(name, dtype, torch, tmp_path):
    import safetensors.torch

    state = {"a": torch.tensor([1.5, -0.25], dtype=getattr(torch, dtype))}
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(state, tmp_path / name)
    same(tensor_files.read(str(tmp_path / name)), {"a": np.array([1.5, -0.25], np.float32)})


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards(name, tmp_path):
    if name.endswith("bin"):
        pytest.importorskip("torch")
    stem, _, suffix = name.rpartition(".")
    where = {"a": f"{stem}-1.{suffix}", "b": f"{stem}-2.{suffix}"}
    for key, file in where.items():
        tensor_files.write({key: ARRAYS[key]}, str(tmp_path / file), {})
    index = tmp_path / f"{name}.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    same(tensor_files.read(str(tmp_path)), ARRAYS)
    index.write_text(json.dumps({"weight_map": where | {"c": where["a"]}}))
    with pytest.raises(UserError, match=f"lists tensor c in {where['a']}, which lacks it$"):
        tensor_files.read(str(tmp_path))
    index.write_text("[]")
    with pytest.raises(UserError, match="index.json is not a shard index$"):
        tensor_files.read(str(tmp_path))
    index.write_text(json.dumps({"weight_map": where}))
    (tmp_path / where["b"]).unlink()
    with pytest.raises(UserError, match=f"{where['b']} does not exist$"):
        tensor_files.read(str(tmp_path))


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.95])
def test_a_file_that_is_cut_short_is_named(suffix, left, tmp_path):
    path = tmp_path / f"x.{suffix}"
    many = {name: np.zeros(1000, np.float32) for name in "abc"}
    if suffix == "npz":
        np.savez(path, **many)
    else:
        pytest.importorskip("torch")
        tensor_files.write(many, str(path), {})
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(UserError) as caught:
        tensor_files.read(str(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and "truncated" in message and "\n" not in message


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pth"])
def test_text_is_no_checkpoint(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    path.write_text("<html>not found</html>")
    if suffix == "pth":
        pytest.importorskip("torch")
    with pytest.raises(UserError, match="^.*x.* is not a"):
        tensor_files.read(str(path))


class Code:
    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_code_in_a_pickle_is_not_run(torch, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.ones(1)}, "more": Code(tmp_path / "run")}, path)
    with pytest.raises(UserError, match="x.pth contains pickled code, which is not run; if you"):
        tensor_files.read(str(path))
    path.write_bytes(pickle.dumps(Code(tmp_path / "run"), protocol=2))
    with pytest.raises(UserError, match="x.pth"):
        tensor_files.read(str(path))
    np.savez(tmp_path / "x.npz", a=np.array([Code(tmp_path / "run")], object))
    with pytest.raises(UserError, match="x.npz is not an .npz file of arrays"):
        tensor_files.read(str(tmp_path / "x.npz"))
    assert not (tmp_path / "run").exists()


def test_a_pytorch_file_without_a_state_dict(torch, tmp_path):
    path = str(tmp_path / "x.pth")
    for content in (torch.ones(2), {"model": 3}, {}, {"epoch": 1}):
        torch.save(content, path)
        with pytest.raises(
            UserError, match="x.pth has no state dict, neither at the top nor under"
        ):
            tensor_files.read(path)


def test_without_pytorch_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.pth"
    path.write_bytes(b"x")
    mend = r'x.pth needs PyTorch: pip install "blip-jax\[torch\]"$'
    with pytest.raises(UserError, match="^reading .*" + mend):
        tensor_files.read(str(path))
    with pytest.raises(UserError, match="^writing .*" + mend):
        tensor_files.write(ARRAYS, str(path), {})


def test_other_paths(tmp_path):
    with pytest.raises(UserError, match="nowhere.pth does not exist$"):
        tensor_files.read(str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="has no weights; expected one of model.safetensors, "):
        tensor_files.read(str(tmp_path))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(
        UserError, match="x.txt is not a weights file; supported endings: .safetensors, .npz"
    ):
        tensor_files.read(str(tmp_path / "x.txt"))
    with pytest.raises(UserError, match="must end in .safetensors or .pth$"):
        tensor_files.write(ARRAYS, str(tmp_path / "x.txt"), {})


def trees_equal(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_checkpoint_keeps_heads_prompt_momentum_and_queue(suffix, tmp_path):
    if suffix == "pth":
        pytest.importorskip("torch")
    config, params = tiny.config(), tiny.init(tiny.config())
    queue = losses.init_queue(5, config.embed_dim, jax.random.key(0), random_init=True)
    queue = losses.Queue(*map(np.asarray, queue))
    momentum = nn.momentum_params(params)
    path = str(tmp_path / f"x.{suffix}")
    written = checkpoints.Checkpoint(
        "pretrain", config, params, momentum, queue, "some-tokenizer", "a drawing of ", 17
    )
    checkpoints.write(written, path, "original")
    found = checkpoints.read(path)
    assert found.config == config and found.model_type == "pretrain" and found.max_length == 17
    assert (found.tokenizer, found.prompt) == ("some-tokenizer", "a drawing of ")
    trees_equal((found.params, found.momentum, found.queue), (params, momentum, queue))


def test_an_original_captioner(torch, tmp_path):
    tensors, config = golden("captioner")
    path = str(tmp_path / "x.pth")
    torch.save({"model": {name: torch.from_numpy(x) for name, x in tensors.items()}}, path)
    found = checkpoints.read(path, HEADS)
    assert (found.model_type, found.config) == ("captioner", config)
    assert (found.prompt, found.tokenizer) == ("a picture of ", "")
    trees_equal(found.params, original.load(tensors, config, "captioner").params)


def test_errors_name_the_file(tmp_path):
    tensors, _ = golden("captioner")
    path = str(tmp_path / "x.safetensors")
    tensor_files.write(tensors | {"more": np.zeros(1, np.float32)}, path, {})
    with pytest.raises(UserError, match="x.safetensors: unknown tensor more$"):
        checkpoints.read(path, HEADS)
    tensor_files.write(tensors, path, {"blip_jax": {"config": 3}})
    with pytest.raises(UserError, match="x.safetensors: its entry 'blip_jax', the configuration"):
        checkpoints.read(path)
    tensor_files.write(ARRAYS, path, {})
    with pytest.raises(UserError, match="x.safetensors: not a BLIP checkpoint"):
        checkpoints.read(path)


def test_an_unknown_format_is_refused(tmp_path):
    checkpoint = checkpoints.Checkpoint("pretrain", tiny.config(), {})
    with pytest.raises(UserError, match="^unknown format 'onnx'; known: original, hf$"):
        checkpoints.write(checkpoint, str(tmp_path / "x"), "onnx")


def test_published_layers_are_stored_as_they_were(torch, tmp_path):
    """Weights that are tied take their place in the file once, as in the original's."""
    tensors, config = golden("pretrain_step")
    weights = original.load(tensors, config, "pretrain")
    path = str(tmp_path / "x.pth")
    checkpoints.write(checkpoints.Checkpoint("pretrain", config, *weights), path, "original")
    state = torch.load(path, weights_only=True)["model"]
    places = {x.untyped_storage().data_ptr() for x in state.values()}
    assert len(state) - len(places) > 50
    assert all(state[name].numpy().tobytes() == x.tobytes() for name, x in tensors.items())
