"""`blip-jax convert`: formats in and out through the command line, and what it refuses."""

import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
from golden_file import Golden

from blip_jax import models
from blip_jax.checkpoints import sources
from blip_jax.cli.main import main
from blip_jax.data.tokenizer import train_wordpiece

torch = pytest.importorskip("torch")

GOLDENS = pathlib.Path(__file__).parent / "goldens"
HEADS = "--heads=3,2"  # of the golden files' models
MODEL_TYPES = ["captioner", "features", "nlvr", "pretrain_step", "retrieval", "vqa"]


def state_dict(name: str) -> dict:
    tensors = Golden(str(GOLDENS / f"{name}.npz")).tensors
    return {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}


def saved(folder, name: str, **changes) -> str:
    """The state dict of a golden file as a .pth; a change to None leaves a tensor out."""
    tensors = {**state_dict(name), **changes}
    path = str(folder / f"{name}.pth")
    torch.save({"model": {k: v for k, v in tensors.items() if v is not None}}, path)
    return path


def fails(capsys, *argv: str) -> str:
    assert main(["convert", *argv]) == 2
    out, message = capsys.readouterr()
    assert not out and message.startswith("blip-jax convert: ") and message.count("\n") == 1
    return message


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_there_and_back_is_equal_bit_for_bit(name, tmp_path, capsys):
    path = saved(tmp_path, name)
    assert main(["convert", path, str(tmp_path / "here"), HEADS]) == 0
    said = capsys.readouterr().out
    assert name.removesuffix("_step") in said and "32 x 32, patch 8" in said
    assert main(["convert", str(tmp_path / "here"), str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    tensors = state_dict(name)
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key


def test_a_workdir_of_another_size_gives_the_same_captions_through_hugging_face(tmp_path, capsys):
    words = [chr(97 + i) for i in range(26)]
    tokenizer = train_wordpiece([" ".join(words), "xyz " * 3], str(tmp_path / "words"), 62)
    golden = Golden(str(GOLDENS / "captioner.npz"))
    assert tokenizer.ids.vocab_size <= golden.cfg["med"]["vocab"]
    unused = [f"[unused{i}]" for i in range(golden.cfg["med"]["vocab"] - tokenizer.ids.vocab_size)]
    vocabulary = tmp_path / "words" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text() + "".join(f"{word}\n" for word in unused))
    path, here, hf = saved(tmp_path, "captioner"), str(tmp_path / "here"), str(tmp_path / "hf")
    own = f"--tokenizer={tmp_path / 'words'}"
    assert main(["convert", path, here, HEADS, own, "--image-size=48"]) == 0
    assert main(["convert", here, hf]) == 0  # the default way out of a workdir
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "blip"
    capsys.readouterr()
    loaded = [models.load(source) for source in (here, hf)]
    assert {model.image_size for model in loaded} == {48}
    image = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    options = {"prompt": "a", "max_length": 9, "min_length": 3}
    (first,), (second,) = (model.caption(image, **options) for model in loaded)
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert first.score == pytest.approx(second.score, rel=1e-6)


def test_the_momentum_encoder_is_resized_too(tmp_path):
    path = saved(tmp_path, "retrieval")
    assert main(["convert", path, str(tmp_path / "here"), HEADS, "--image-size=48"]) == 0
    found = sources.read(str(tmp_path / "here"))
    sizes = {x["vit"]["position"].shape[1] for x in (found.params, found.momentum)}
    assert sizes == {37} and found.queue.group.shape == (12,)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.momentum))


# What is refused


def test_tensors_that_do_not_fit(tmp_path, capsys):
    name, out = "visual_encoder.norm.weight", str(tmp_path / "out")
    path = saved(tmp_path, "captioner", **{name: None})
    assert f"{path}: missing tensor {name}\n" in fails(capsys, path, out, HEADS)
    path = saved(tmp_path, "captioner", **{"visual_encoder.head.bias": torch.zeros(3)})
    assert "unknown tensor visual_encoder.head.bias\n" in fails(capsys, path, out, HEADS)
    path = saved(tmp_path, "captioner", **{name: torch.zeros(7)})
    assert f"{name} is [7], the model's [24]\n" in fails(capsys, path, out, HEADS)
    word = "text_decoder.cls.predictions.decoder.weight"
    path = saved(tmp_path, "captioner", **{word: torch.zeros(64, 16)})
    assert "to which it is tied\n" in fails(capsys, path, out, HEADS)
    assert not (tmp_path / "out").exists()


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_files_that_are_no_checkpoints(tmp_path, capsys):
    out = str(tmp_path / "out")
    path = saved(tmp_path, "captioner")
    whole = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(whole[: len(whole) // 2])
    assert path in fails(capsys, path, out)
    with open(tmp_path / "code.pth", "wb") as file:
        pickle.dump({"model": Code()}, file)
    assert "code.pth" in fails(capsys, str(tmp_path / "code.pth"), out)  # and nothing printed
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pth")
    assert "not a BLIP checkpoint" in fails(capsys, str(tmp_path / "other.pth"), out)
    assert "does not exist" in fails(capsys, str(tmp_path / "nowhere"), out)


def test_arguments_that_cannot_be_met(tmp_path, capsys):
    path = saved(tmp_path, "nlvr")
    assert "exists already" in fails(capsys, path, path)
    assert "--to" in fails(capsys, path, str(tmp_path / "x"), "--to=tflite")
    assert "--heads" in fails(capsys, path, str(tmp_path / "x"), "--heads=3")
    assert "nlvr" in fails(capsys, path, str(tmp_path / "x"), HEADS, "--to=hf")
    assert "needs" in fails(
        capsys, saved(tmp_path, "captioner"), str(tmp_path / "x"), HEADS, "--to=hf"
    )
