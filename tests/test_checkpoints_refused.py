"""Checkpoints that cannot be read as they are: one line that names the thing and what to do."""

import json
import re

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from blip_jax import checkpoints, models, nn
from blip_jax.checkpoints import sources
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.checkpoints.detection import detect_model_type
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.models import Model
from blip_jax.nn import BlipConfig
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import UserError

HEADS = {"vit": 4, "med": 4}


@pytest.fixture(scope="module")
def captioner():
    return checkpoints.Checkpoint(
        "captioner", tiny.config(), tiny.init(tiny.config(), 0, "captioner")
    )


@pytest.fixture
def tensors(captioner, tmp_path):
    """The names and arrays of a captioner's file."""
    checkpoints.write(captioner, str(tmp_path / "x.safetensors"), "original")
    return dict(tensor_files.read(str(tmp_path / "x.safetensors")))


def message(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module."],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_prefixes_of_wrappers_are_taken_off(captioner, tensors, tmp_path, prefix, suffix):
    path = tmp_path / f"wrapped.{suffix}"
    if suffix == "pth":
        pytest.importorskip("torch")
    tensor_files.write({prefix + name: x for name, x in tensors.items()}, str(path), {})
    found = checkpoints.read(str(path), HEADS)
    jax.tree.map(np.testing.assert_array_equal, found.params, captioner.params)


def test_prefixes_inside_names_and_beside_other_names(captioner, tensors, tmp_path):
    inner = {
        n.replace("visual_encoder.", "visual_encoder._orig_mod."): x for n, x in tensors.items()
    }
    save_file(inner, tmp_path / "inner.safetensors")
    found = checkpoints.read(str(tmp_path / "inner.safetensors"), HEADS)
    jax.tree.map(np.testing.assert_array_equal, found.params, captioner.params)
    both = {**tensors, **{f"module.{name}": x for name, x in tensors.items()}}
    save_file(both, tmp_path / "both.safetensors")  # two models: neither is chosen
    assert "unknown tensor module." in message(
        checkpoints.read, str(tmp_path / "both.safetensors"), HEADS
    )


def test_a_file_of_a_hugging_face_folder_asks_for_the_folder(captioner, tmp_path):
    whole = tmp_path / "blip"
    config = tiny.config(med={"vocab_size": 30524})
    model = checkpoints.Checkpoint("captioner", config, tiny.init(config, 0, "captioner"))
    checkpoints.write(model, str(whole), "hf")
    file = whole / "model.safetensors"
    found = message(checkpoints.read, str(file))
    assert found == f"{file}: the weights of a Hugging Face folder; give the folder, not the file"
    (whole / "config.json").unlink()
    assert f"{whole} has no config.json; give a whole Hugging Face folder" in message(
        checkpoints.read, str(whole)
    )


def test_a_lora_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    lora = {"base_model.model.text_decoder.lora_A.weight": np.zeros((2, 2), np.float32)}
    save_file(lora, tmp_path / "adapter_model.safetensors")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        assert "a LoRA adapter; merge it into its model first" in message(
            checkpoints.read, str(path)
        )


def test_dtypes_that_numpy_lacks_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    names = {"float8_e4m3fn": "F8_E4M3", "complex64": "C64"}
    for dtype, name in names.items():
        state = {"a": torch.zeros(2, dtype=getattr(torch, dtype))}
        torch.save(state, tmp_path / "x.pth")
        save_torch(state, tmp_path / "x.safetensors")
        for file, named in (("x.pth", dtype), ("x.safetensors", name)):
            found = message(tensor_files.read, str(tmp_path / file))
            assert f"tensor a is {named}, which is not supported; save it as float32" in found


def test_tensors_that_are_not_stored_whole_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for tensor in (torch.zeros(1).expand(10**12), torch.zeros(3, 3).to_sparse()):
        torch.save({"a": tensor}, tmp_path / "x.pth")
        assert "tensor a is not stored whole" in message(tensor_files.read, str(tmp_path / "x.pth"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(captioner, tensors, tmp_path, bad):
    name = "text_decoder.bert.encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 3] = bad
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    assert message(checkpoints.read, str(path), HEADS) == (
        f"{path}: tensor {name} holds NaN or infinity; has it diverged?"
    )
    params = jax.tree.map(np.copy, captioner.params)
    params["vit"]["norm"]["scale"][2] = bad
    workdir = str(tmp_path / "run")
    sources.write(checkpoints.Checkpoint("captioner", tiny.config(), params), workdir, "jax")
    assert message(models.load, workdir) == (
        f"{workdir}: its weights hold NaN or infinity (vit/norm/scale); has it diverged?"
    )


def test_a_model_that_gives_nan_is_named():
    model = Model({}, tiny.config(), "", model_type="captioner", name="runs/cap")
    assert message(model._check_results, [np.ones(2), np.array([1, np.nan])]) == (
        "runs/cap gives NaN: its weights hold NaN or are too large; has it diverged?"
    )
    model._check_results([np.array([-np.inf, 1.0]), np.arange(3)])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vit": {"depth": 10**12}}, "vit.depth is 1000000000000; expected a whole number from 1"),
        ({"med": {"vocab_size": -3}}, "med.vocab_size is -3; expected a whole number from 1 to"),
        ({"vit": {"heads": 0}}, "vit.heads is 0"),
        ({"vit": {"width": 64.0}}, "vit.width is 64.0; expected int"),
        ({"vit": {"width": True}}, "vit.width is True; expected int"),
        ({"vit": {"eps": "x"}}, "vit.eps is 'x'; expected float"),
        ({"med": {"dropout": float("nan")}}, "med.dropout is nan; give a finite number"),
        ({"vit": {"eps": 10**12}}, "vit.eps is 1000000000000; expected a number from 0 to 1e+06"),
        ({"med": 3}, "med is 3; expected MedConfig"),
        ({"dtype": ["float32"]}, "dtype is ['float32']; expected float32 | bfloat16 | float16"),
        ({"quirks": 3}, "quirks is 3; expected str,..."),
        ([], "BlipConfig is []; expected an object"),
    ],
)
def test_a_configuration_with_wrong_values_is_named(changes, named):
    values = to_json(tiny.config())
    for name, value in changes.items() if isinstance(changes, dict) else ():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    found = message(from_json, BlipConfig, values if isinstance(changes, dict) else changes)
    assert found.startswith(named)


@pytest.mark.parametrize(
    ("shard", "wrong"),
    [
        ("../outside.safetensors", "lists the shard '../outside.safetensors', not a weights file"),
        ("/etc/passwd", "lists the shard '/etc/passwd'"),
        ("model.safetensors.index.json", "lists the shard 'model.safetensors.index.json'"),
        (3, "is not a shard index|lists the shard 3"),
    ],
)
def test_shards_stay_in_their_folder(tmp_path, shard, wrong):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    assert re.search(wrong, message(tensor_files.read, str(folder)))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n", "has the token 'a' twice"),
        (b"[PAD]\n\xff\n", "is not a vocabulary in UTF-8"),
        (b"a\nb\n", "has no [PAD] [UNK] [CLS] [SEP] [MASK]; give a BERT vocabulary"),
    ],
)
def test_vocabularies(tmp_path, content, named):
    (tmp_path / "vocab.txt").write_bytes(content)
    assert named in message(Tokenizer.load, str(tmp_path))


def test_a_vocabulary_is_parted_by_line_ends_alone(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "\x85", "a"]
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*words, ""]).encode())
    assert Tokenizer.load(str(tmp_path)).ids.vocab_size == len(words) + 2


@pytest.mark.parametrize("content", ["{", "[]", '{"do_lower_case": 3}', "[" * 100_000])
def test_settings_of_a_tokenizer(tmp_path, content):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / "tokenizer_config.json").write_text(content)
    assert "tokenizer_config.json" in message(Tokenizer.load, str(tmp_path))


def test_garbage_as_tokenizer_json(tmp_path):
    for content in ("", "{}", "garbage", '{"model": {"type": "WordPiece", "vocab": {"a": -1}}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        assert "tokenizer.json is not a tokenizer" in message(Tokenizer.load, str(tmp_path))


def test_an_npz_of_objects_or_texts(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    assert "is not an .npz file of arrays" in message(tensor_files.read, str(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", a=np.array(["text"]))
    assert "tensor a is <U4, which" in message(tensor_files.read, str(tmp_path / "x.npz"))


def test_layers_of_a_name_are_bounded():
    shapes = _shapes()
    shapes["visual_encoder.blocks.999999999.norm1.weight"] = (16,)
    assert "vit.depth is 1000000000; expected" in message(checkpoints.infer_config, shapes, HEADS)
    assert detect_model_type(shapes) == "captioner"


def _shapes() -> dict:
    from blip_jax.checkpoints import original
    from blip_jax.checkpoints.rules import source_shapes

    config = tiny.config()
    like = nn.param_shapes(config, "captioner")
    return source_shapes(like, original.rules("captioner", config))


def test_the_web_address_of_a_model_is_one_line():
    url = "https://storage.example.com/model_base.pth"
    assert message(models.load, url) == (
        f"{url} is neither a local nor a gs:// path; give one (to read it, download it first)"
    )
    assert message(models.load, "https://huggingface.co/Salesforce/blip-vqa-base") == (
        "https://huggingface.co/Salesforce/blip-vqa-base is not a local path: download it, or give "
        "the model's id, Salesforce/blip-vqa-base"
    )
