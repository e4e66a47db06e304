"""Reads and writes checkpoints of the original PyTorch code and of Hugging Face.

checkpoint = checkpoints.read("model_base_caption_capfilt_large.pth")
checkpoints.write(checkpoint, "blip-base", to="hf")
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from blip_jax import losses, nn
from blip_jax.checkpoints import huggingface, huggingface_config, original, training_data
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.checkpoints.detection import detect_model_type, infer_config
from blip_jax.checkpoints.training_data import TrainingDataset
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_folder, read_json, write_json

__all__ = ["Checkpoint", "infer_config", "read", "detect_model_type", "write"]

FORMATS = ("original", "hf")
TOKENIZER = "bert-base-uncased"
ABOUT = "blip_jax.json"  # in a Hugging Face folder: what config.json has no field for
_VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model and what is needed to use it.

    Attributes:
      model_type: of `nn.MODEL_TYPES`.
      params: nested dict of float32 arrays.
      momentum: parameters of the momentum encoder; None where the checkpoint has none.
      queue: momentum features of past batches; None where the checkpoint has none.
      tokenizer: a tokenizer, or its folder or Hugging Face id; "" if unknown.
      prompt: the text that a captioner's captions begin with.
      max_length: longest text of its training, in tokens.
      trained_on: datasets that it was trained on; None: unknown, as of released checkpoints.
    """

    model_type: str
    config: nn.BlipConfig
    params: dict
    momentum: dict | None = None
    queue: losses.Queue | None = None
    tokenizer: Tokenizer | str = ""
    prompt: str = ""
    max_length: int = 35
    trained_on: tuple[TrainingDataset, ...] | None = None


def read(
    path: str, heads: Mapping[str, int] | None = None, training_state: bool = True
) -> Checkpoint:
    """Reads a file of the original (.pth, .pt, .bin, .safetensors) or a Hugging Face folder.

    The tensors must be exactly those of the model: unknown and missing ones are errors.

    Args:
      heads: attention heads, {"vit": …, "med": …}, for a file of the original whose heads are not
        64 wide; Hugging Face folders and files written by `write` store them.
      training_state: also read the momentum encoder and the queue, if there are any.

    Raises:
      UserError: one line that names the file and what is wrong with it.
    """
    place = pathlib.Path(path).expanduser()
    try:
        if place.is_dir():
            return _read_huggingface(place)
        return _read_original(place, heads, training_state)
    except RecursionError as error:
        raise UserError(f"{place} is nested too deeply to be a checkpoint") from error
    except UserError as error:
        message = str(error)
        raise UserError(message if str(place) in message else f"{place}: {message}") from error


def _read_huggingface(folder: pathlib.Path) -> Checkpoint:
    config, model_type = huggingface_config.read_config(str(folder))
    params = huggingface.load(tensor_files.read(str(folder)), config, model_type)
    own = any((folder / name).is_file() for name in _VOCABULARY_FILES)
    tokenizer = str(folder) if own else _default_tokenizer(config)
    defaults = nn.MODEL_TYPES[model_type]
    about = read_json(folder / ABOUT) if (folder / ABOUT).exists() else {}
    try:
        prompt = str(about.get("prompt", ""))
        length = int(about.get("max_length", defaults.max_length))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{folder / ABOUT} is damaged; copy it again, or remove it") from error
    trained_on = training_data.read(folder)
    return Checkpoint(model_type, config, params, None, None, tokenizer, prompt, length, trained_on)


def _read_original(
    file: pathlib.Path, heads: Mapping[str, int] | None, training_state: bool
) -> Checkpoint:
    tensors = tensor_files.read(str(file))
    model_type = detect_model_type(tensors)
    defaults = nn.MODEL_TYPES[model_type]
    about = tensors.extras.get("blip_jax") or {}
    try:
        if about:
            config = from_json(nn.BlipConfig, about["config"])
        else:
            config = infer_config(tensors.shapes, heads)
        prompt = str(about.get("prompt", defaults.prompt))
        tokenizer = str(about.get("tokenizer", ""))
        length = int(about.get("max_length", defaults.max_length))
        trained_on = _trained_on(tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("its entry 'blip_jax', the configuration, cannot be read") from error
    weights = original.load(tensors, config, model_type, training_state)
    tokenizer = tokenizer or _default_tokenizer(config)
    return Checkpoint(model_type, config, *weights, tokenizer, prompt, length, trained_on)


def read_training_data(path: str) -> tuple[TrainingDataset, ...] | None:
    """Returns `Checkpoint.trained_on` of what `read` takes, without its weights.

    Raises:
      UserError: as `read`.
    """
    if pathlib.Path(path).expanduser().is_dir():
        return training_data.read(pathlib.Path(path).expanduser())
    try:
        return _trained_on(tensor_files.read(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its entry 'blip_jax' cannot be read") from error


def _trained_on(tensors: tensor_files.Tensors) -> tuple[TrainingDataset, ...] | None:
    stored = (tensors.extras.get("blip_jax") or {}).get("trained_on")
    return None if stored is None else training_data.from_json(stored)


def _default_tokenizer(config: nn.BlipConfig) -> str:
    return TOKENIZER if config.med.vocab_size == huggingface_config.BERT_VOCAB else ""


def write(checkpoint: Checkpoint, path: str, to: str) -> None:
    """Writes a checkpoint for the original code or for Hugging Face.

    Args:
      path: for "original" a .pth or .safetensors file, which also stores the configuration; for
        "hf" a folder.
      to: "original" or "hf". The latter stores no momentum encoder, queue or temperature. What the
        model was trained on is stored, but of the datasets' paths the last part alone.

    Raises:
      UserError: the format lacks the model type, or it needs the tokenizer, which is unknown; the
        folder exists and is not empty.
    """
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    model_type, config = checkpoint.model_type, checkpoint.config
    if to == "hf":
        tokenizer = checkpoint.tokenizer or None
        if isinstance(tokenizer, str):
            tokenizer = Tokenizer.load(tokenizer)
        tensors = huggingface.save(checkpoint.params, config, model_type)
        with atomic_folder(pathlib.Path(path).expanduser()) as folder:
            huggingface.write_folder(str(folder), config, model_type, tokenizer)
            tensor_files.write(tensors, str(folder / "model.safetensors"), {})
            about = {"prompt": checkpoint.prompt, "max_length": checkpoint.max_length}
            write_json(folder / ABOUT, about)
            if checkpoint.trained_on:
                training_data.write(folder, checkpoint.trained_on, public=True)
        return
    weights = original.Weights(checkpoint.params, checkpoint.momentum, checkpoint.queue)
    about = {"model_type": model_type, "config": to_json(config)}
    about |= {"prompt": checkpoint.prompt, "max_length": checkpoint.max_length}
    if checkpoint.trained_on:
        about["trained_on"] = training_data.to_json(checkpoint.trained_on, public=True)
    tokenizer = checkpoint.tokenizer
    if isinstance(tokenizer, str) and not pathlib.Path(tokenizer).expanduser().is_dir():
        about["tokenizer"] = tokenizer
    tensor_files.write(original.save(weights, config, model_type), path, {"blip_jax": about})
