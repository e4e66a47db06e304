"""A folder of programs with all that is needed to use them: weights, vocabulary, a script."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
from typing import Any

import blip_jax
from blip_jax import nn
from blip_jax.checkpoints import Checkpoint
from blip_jax.data.text import BLIP
from blip_jax.model_export import onnx_files, stablehlo
from blip_jax.model_export.parts import Part, parts_of
from blip_jax.models import Model
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed
from blip_jax.runtime.files import atomic_folder, write_json

SCRIPT = pathlib.Path(__file__).with_name("usage.py")
FORMATS = {"stablehlo": stablehlo, "onnx": onnx_files}
TITLES = {"stablehlo": "StableHLO", "onnx": "ONNX"}
PACKAGES = {"stablehlo": "flatbuffers", "onnx": "onnx"}  # in which programs are stored
NEEDS = {
    "stablehlo": "NumPy and JAX for CPU, TPU or CUDA (`pip install jax flatbuffers`)",
    "onnx": "NumPy and ONNX Runtime (`pip install numpy onnxruntime`)",
}
USES = {
    "caption": "python usage.py caption IMAGE",
    "match": "python usage.py match IMAGE --text TEXT",
    "answer": "python usage.py answer IMAGE --text QUESTION",
}


def write(checkpoint: Checkpoint, path: str | os.PathLike, to: str) -> None:
    """Writes a model as programs that run without this package, computing in float32.

    The folder holds a program for each part of the model, programs.json, which lists their inputs
    and outputs, the tokenizer's vocabulary, and usage.py, which needs no other code.

    Args:
      to: "stablehlo" or "onnx".

    Raises:
      UserError: the model type has no parts to export, its tokenizer is unknown or not BERT's, a
        package is missing, or the folder exists and is not empty.
    """
    parts = parts_of(checkpoint)
    check_installed(to, PACKAGES[to])
    if not _tokenizer(checkpoint).is_wordpiece or _tokenizer(checkpoint).cleanup is not BLIP:
        raise UserError(
            f"usage.py of a {TITLES[to]} folder reads WordPiece with the clean-up blip alone; "
            "convert this model to hf or jax"
        )
    about = _about(checkpoint, parts, to)
    with atomic_folder(path) as folder:
        _tokenizer(checkpoint).save(str(folder))
        FORMATS[to].write(checkpoint, parts, folder)
        write_json(folder / "programs.json", about)
        (folder / "usage.py").write_text(SCRIPT.read_text("utf-8"), "utf-8")
        (folder / "README.md").write_text(_readme(about), "utf-8")


def _tokenizer(checkpoint: Checkpoint) -> Any:
    """Returns the tokenizer, which has as many tokens as the model."""
    return Model(checkpoint.params, checkpoint.config, checkpoint.tokenizer).tokenizer


def _about(checkpoint: Checkpoint, parts: dict[str, Part], to: str) -> dict[str, Any]:
    tokenizer = _tokenizer(checkpoint)
    names = ("pad", "cls", "sep", "dec", "enc")
    return {
        "format": to,
        "model_type": checkpoint.model_type,
        "image_size": checkpoint.config.vit.image_size,
        "max_length": min(checkpoint.max_length, checkpoint.config.med.max_length),
        "tokens": {name: getattr(tokenizer.ids, name) for name in names},
        "uses": _uses(checkpoint),
        "prompt_tokens": tokenizer.prompt(checkpoint.prompt).tolist(),
        "programs": {
            name: {
                "inputs": {
                    key: {"dtype": array.dtype, "shape": list(array.shape)}
                    for key, array in part.inputs.items()
                },
                "outputs": list(part.outputs),
            }
            for name, part in parts.items()
        },
        "versions": {
            "blip_jax": blip_jax.__version__,
            "jax": importlib.metadata.version("jax"),
        },
    }


def _uses(checkpoint: Checkpoint) -> list[str]:
    able = nn.MODEL_TYPES[checkpoint.model_type].capabilities
    return [use for use in USES if use in able or (use == "match" and "encode" in able)]


def _readme(about: dict[str, Any]) -> str:
    """Returns the README.md of a folder."""
    rows = [
        f"| `{name}` | {', '.join(map(_described, program['inputs'].items()))} "
        f"| {', '.join(f'`{output}`' for output in program['outputs'])} |"
        for name, program in about["programs"].items()
    ]
    return "\n".join([
        f"# A {about['model_type']} model of BLIP as {TITLES[about['format']]} programs",
        "",
        f"They need {NEEDS[about['format']]}; `usage.py` also Pillow, for images other than .npy.",
        "",
        "```bash",
        *(USES[use] for use in about["uses"]),
        "```",
        "",
        "`usage.py` is the example to start from; it decodes greedily. Of the sizes, `batch`, "
        "`tokens` (of a text) and `length` (of the cache in which the decoder keeps the tokens so "
        "far) can be any; computing is float32.",
        "",
        "| program | inputs | outputs |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def _described(entry: tuple[str, dict]) -> str:
    name, array = entry
    return f"`{name}` {array['dtype']} [{', '.join(map(str, array['shape']))}]"
