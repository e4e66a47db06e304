"""Models as StableHLO and ONNX programs: the live model's numbers, from a process without it."""

import functools
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
import tiny_dataset
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from blip_jax import checkpoints, model_export, models
from blip_jax.cli.main import main
from blip_jax.model_export import onnx_files, parts, stablehlo
from blip_jax.nn import fused_attention

PACKAGES = {"stablehlo": "flatbuffers", "onnx": "onnxruntime"}
TEXTS = ["A small red circle, on the left!", "two squares"]
# Sizes of two calls: no program may be of one size alone.
SIZES = [{"batch": 3, "tokens": 6, "length": 9}, {"batch": 1, "tokens": 9, "length": 12}]
# What a process prints that has neither this package, nor Flax, nor (for ONNX) JAX.
CODE = """
import json, sys
out, file, texts, *missing = sys.argv[1:]
sys.modules.update(dict.fromkeys(["blip_jax", "flax", "transformers", *missing]))
sys.path.insert(0, out)
import numpy as np, usage
images, texts = np.load(file), json.loads(texts)
found = {}
if "caption" in usage.MODEL["uses"]:
    found["caption"] = usage.caption(images)
if "match" in usage.MODEL["uses"]:
    found["match"] = [x.tolist() for x in usage.match(images, texts)]
    found["ids"] = usage.encode(texts)[0].tolist()
if "answer" in usage.MODEL["uses"]:
    found["answer"] = usage.answer(images, texts)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def workdirs(world, model, tmp_path_factory):
    """Workdirs of tiny models by type."""
    folder = tmp_path_factory.mktemp("workdirs")
    return {
        name: tiny_dataset.save(model(name), str(folder / name)) for name in ("pretrain", "vqa")
    }


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def live(workdirs, images):
    """A function that returns what a model gives, as CODE prints it."""

    @functools.cache
    def results(name: str) -> dict:
        model = models.load(workdirs[name])
        if name == "vqa":
            return {"answer": [x.text for x in model.answer(images, TEXTS, num_beams=1)]}
        match = model.match(images, TEXTS)
        return {
            "caption": [x.text for x in model.caption(images, method="greedy")],
            "match": [match.probability, match.cosine],
            "ids": model.tokenizer.encode(TEXTS, 24)[0],
        }

    return results


@pytest.mark.parametrize(
    ("name", "to"),
    [("pretrain", "stablehlo"), ("pretrain", "onnx"), ("vqa", "onnx")],
)
def test_a_process_without_this_package_gives_the_same(name, to, workdirs, live, images, tmp_path):
    pytest.importorskip(PACKAGES[to])
    out, file = str(tmp_path / "out"), str(tmp_path / "images.npy")
    assert main(["convert", workdirs[name], out, "--to", to]) == 0
    np.save(file, images)
    missing = ["jax"] if to == "onnx" else []
    done = subprocess.run(
        [sys.executable, "-c", CODE, out, file, json.dumps(TEXTS), *missing],
        capture_output=True, text=True, cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found, expected = json.loads(done.stdout), live(name)
    assert found.keys() == expected.keys()
    for use in found.keys() & {"caption", "answer"}:
        assert found[use] == expected[use] and len(set(found[use])) == 2  # of two images
    if "match" in found:
        np.testing.assert_allclose(found["match"], expected["match"], atol=1e-5)
        length = len(found["ids"][0])
        np.testing.assert_array_equal(found["ids"], expected["ids"][:, :length])


@pytest.mark.parametrize("lower_case", [True, False])
def test_words_are_those_of_berts_tokenizer(tmp_path, monkeypatch, lower_case):
    file = pathlib.Path(model_export.__file__).with_name("usage.py")
    shutil.copy(file, tmp_path / "usage_copy.py")
    (tmp_path / "programs.json").write_text('{"tokens": {}}')
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "usage_copy", raising=False)
    usage = importlib.import_module("usage_copy")
    texts = [
        "Café a_b, d'été",
        "二匹の犬 and 한국어",
        "naïve\u200bÅngström\tx",
        "नमस्ते!",
        "$5 + €6 ½",
    ]
    normalize = BertNormalizer(lowercase=lower_case)
    for text in texts:
        words = BertPreTokenizer().pre_tokenize_str(normalize.normalize_str(text))
        assert usage.split_words(text) == [word for word, _ in words], text
    assert usage.word_pieces("x" * 101) == [0]


def random_inputs(part: parts.Part, sizes: dict[str, int]) -> list[np.ndarray]:
    rng, arrays = np.random.default_rng(1), []
    for name, array in part.inputs.items():
        shape = tuple(sizes.get(size, size) for size in array.shape)
        if array.dtype == "bool":
            arrays.append(np.arange(shape[1]) < rng.integers(2, shape[1], (shape[0], 1)))
        elif array.dtype == "float32":
            arrays.append(rng.normal(size=shape).astype(np.float32))
        else:
            arrays.append(np.asarray(rng.integers(0, 3 if name == "index" else 200, shape)))
        arrays[-1] = arrays[-1].astype(array.dtype)
    return arrays


@pytest.mark.parametrize(
    ("name", "part_name", "to"),
    [
        ("pretrain", "decoder_step", "stablehlo"),
        ("pretrain", "decoder_step", "onnx"),
        ("aligned", "text_encoder", "onnx"),
    ],
)
def test_a_program_of_any_size_equals_the_network(name, part_name, to, model):
    pytest.importorskip(PACKAGES[to])
    live = model(name)
    checkpoint = checkpoints.Checkpoint(name, live.config, live.params)
    part = parts.parts_of(checkpoint)[part_name]
    if to == "onnx":
        import onnx
        import onnxruntime

        proto = onnx_files.model_of(checkpoint, part)
        onnx.checker.check_model(proto, full_check=True)
        session = onnxruntime.InferenceSession(proto.SerializeToString())

        def call(*arrays):
            return session.run(None, dict(zip(part.inputs, arrays, strict=True)))
    else:
        flat = stablehlo.flat_params(checkpoint)
        stored = stablehlo.export(checkpoint, part, flat).serialize()
        exported = jax.export.deserialize(stored)
        assert exported.platforms == ("cpu", "tpu", "cuda")

        def call(*arrays):
            return exported.call(flat, *arrays)

    run = jax.jit(parts.program(checkpoint, part))
    for sizes in SIZES:
        arrays = random_inputs(part, sizes)
        expected = run(checkpoint.params, *arrays)
        for output, array, own in zip(part.outputs, call(*arrays), expected, strict=True):
            error = np.abs(np.asarray(array) - own).max() / np.abs(own).max()
            assert error < 1e-5, output


def test_parts_are_those_of_the_model(model, images):
    """The image encoder takes pixels as they are, and gives what the model's methods give."""
    live = model("pretrain")
    checkpoint = checkpoints.Checkpoint("pretrain", live.config, live.params)
    encoder = parts.program(checkpoint, parts.parts_of(checkpoint)["image_encoder"])
    _, features = jax.jit(encoder)(checkpoint.params, images)
    np.testing.assert_allclose(features, live.encode_image(images), atol=1e-5)


def test_programs_have_no_kernel_of_this_machine():
    """Attention of many tokens is fused where this process would run it."""
    config = tiny.config(vit={"image_size": 64, "patch_size": 4})
    params = tiny.init(config, model_type="captioner")
    checkpoint = checkpoints.Checkpoint("captioner", config, params)
    part = parts.parts_of(checkpoint)["image_encoder"]
    inputs = parts.symbolic_inputs(checkpoint, part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_attention.jax, "device_count", lambda: 1)
        assert fused_attention.uses_head_loop(257, 257)
        text = str(jax.make_jaxpr(parts.program(checkpoint, part))(params, *inputs))
    assert "scan" in text and "checkpoint" not in text


def test_what_is_refused(model, tmp_path, capsys, monkeypatch):
    dialog = tiny_dataset.save(model("dialog"), str(tmp_path / "dialog"))
    assert main(["convert", dialog, str(tmp_path / "out"), "--to=onnx"]) == 2
    assert "a dialog model is not exported; convert a pretrain" in capsys.readouterr().err
    captioner = tiny_dataset.save(model("captioner"), str(tmp_path / "captioner"))
    for to, package in (("onnx", "onnx"), ("stablehlo", "flatbuffers")):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert main(["convert", captioner, str(tmp_path / "out"), f"--to={to}"]) == 2
        message = capsys.readouterr().err
        assert f"{package} is not installed; run pip install" in message
        assert message.count("\n") == 1 and not (tmp_path / "out").exists()
