"""TrainingCheckpoints of the original PyTorch code and of Hugging Face, in and out.

checkpoint = convert.read("model_base_caption_capfilt_large.pth")
convert.write(checkpoint, "blip-base", to="hf")
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from blip_jax import losses, nn
from blip_jax.checkpoints import huggingface, original
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.checkpoints.detection import detect_model_type, infer_config
from blip_jax.checkpoints.original import adapt_to_nlvr
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import UserError

__all__ = ["Checkpoint", "infer_config", "adapt_to_nlvr", "read", "detect_model_type", "write"]

FORMATS = ("original", "hf")
TOKENIZER = "bert-base-uncased"
_VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model and what is needed to use it.

    Attributes:
      model_type: of `nn.MODEL_TYPES`.
      params: nested dict of float32 arrays.
      momentum, queue: to go on training from; None where there are none.
      tokenizer: one, or a folder or Hugging Face id; "" if it is not known.
      prompt: what a captioner's texts begin with.
      max_length: tokens of its training texts.
    """

    model_type: str
    config: nn.BlipConfig
    params: dict
    momentum: dict | None = None
    queue: losses.Queue | None = None
    tokenizer: Tokenizer | str = ""
    prompt: str = ""
    max_length: int = 35


def read(
    path: str, heads: Mapping[str, int] | None = None, training_state: bool = True
) -> Checkpoint:
    """A checkpoint of the original (.pth, .pt, .bin, .safetensors) or a Hugging Face folder.

    Everything in it must be known and everything that the model needs must be there.

    Args:
      heads: {"vit": attention heads of the ViT, "med": of the text transformer}, where heads are
        not 64 wide; a Hugging Face folder and a file that `write` made tell them.
      training_state: also read the momentum encoder and the queue, if there are any.

    Raises:
      UserError: one line that names the file and what is wrong with it.
    """
    place = pathlib.Path(path).expanduser()
    try:
        if place.is_dir():
            return _read_huggingface(place)
        return _read_original(place, heads, training_state)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(place) in message else f"{place}: {message}") from error


def _read_huggingface(folder: pathlib.Path) -> Checkpoint:
    config, model_type = huggingface.read_config(str(folder))
    params = huggingface.load(tensor_files.read(str(folder)), config, model_type)
    own = any((folder / name).is_file() for name in _VOCABULARY_FILES)
    tokenizer = str(folder) if own else _default_tokenizer(config)
    length = nn.MODEL_TYPES[model_type].max_length
    return Checkpoint(model_type, config, params, tokenizer=tokenizer, max_length=length)


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("what it says of itself under 'blip_jax' cannot be read") from error
    weights = original.load(tensors, config, model_type, training_state)
    tokenizer = tokenizer or _default_tokenizer(config)
    return Checkpoint(model_type, config, *weights, tokenizer, prompt, length)


def _default_tokenizer(config: nn.BlipConfig) -> str:
    return TOKENIZER if config.med.vocab_size == huggingface.BERT_VOCAB else ""


def write(checkpoint: Checkpoint, path: str, to: str) -> None:
    """Writes a checkpoint for the original code or for Hugging Face.

    Args:
      path: for "original" a file, .pth or .safetensors, with the configuration next to the
        weights; for "hf" a folder.
      to: "original" or "hf" (which has no momentum, no queue and no temperature).

    Raises:
      UserError: the format has no such model type, or the tokenizer is needed and unknown.
    """
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    model_type, config = checkpoint.model_type, checkpoint.config
    if to == "hf":
        tokenizer = checkpoint.tokenizer or None
        if isinstance(tokenizer, str):
            tokenizer = Tokenizer.load(tokenizer)
        tensors = huggingface.save(checkpoint.params, config, model_type)
        huggingface.write_folder(path, config, model_type, tokenizer)
        tensor_files.write(tensors, str(pathlib.Path(path).expanduser() / "model.safetensors"), {})
        return
    weights = original.Weights(checkpoint.params, checkpoint.momentum, checkpoint.queue)
    about = {"model_type": model_type, "config": to_json(config)}
    about |= {"prompt": checkpoint.prompt, "max_length": checkpoint.max_length}
    tokenizer = checkpoint.tokenizer
    if isinstance(tokenizer, str) and not pathlib.Path(tokenizer).expanduser().is_dir():
        about["tokenizer"] = tokenizer
    tensor_files.write(original.save(weights, config, model_type), path, {"blip_jax": about})
