"""Finding a model: workdirs, PyTorch checkpoints, Hugging Face folders and ids."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from blip_jax import convert, models
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.errors import UserError
from blip_jax.inference.model import Model
from blip_jax.train.checkpoint import FOLDER, load_params

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
BERT = "bert-base-uncased"  # the tokenizer of all published checkpoints
# What a Hugging Face repository has for us; other frameworks' weights stay there.
HUB_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin", "vocab.txt"]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".npz")
# Tokens of each kind's training texts in the original (section 4 of the paper's recipes).
MAX_LENGTH = {"pretrain": 30, "captioner": 40}


def load(
    source: str | os.PathLike,
    *,
    image_size: int | None = None,
    dtype: str = "float32",
    tokenizer: Tokenizer | str | None = None,
    quirks: Sequence[str] = (),
    heads: Mapping[str, int] | None = None,
) -> Model:
    """Loads a model to caption, match, answer or embed with.

    Args:
      source: a training's workdir, a checkpoint of the original (`.pth`), or a Hugging Face
        folder, each local or `gs://`; or a Hugging Face id ("Salesforce/blip-itm-base-coco").
      image_size: pixels a side, a multiple of the patch; the position embedding is resized. None:
        the checkpoint's.
      dtype: compute dtype; "bfloat16" halves time and activations on TPUs and GPUs, and gives up
        digits. Parameters stay float32.
      tokenizer: the folder or Hugging Face id of one; None: the one beside the checkpoint, else
        bert-base-uncased. It is loaded when a text is first read.
      quirks: of `models.QUIRKS`, faults of the original to repeat.
      heads: {"vit": …, "med": …}, attention heads of an original checkpoint of an unusual width.

    Raises:
      UserError: there is no such model, or it is not whole.
    """
    place = epath.Path(source)
    if (place / FOLDER).exists():
        params, meta = load_params(os.fspath(source))
        beside = str(place / "tokenizer") if not meta.tokenizer else meta.tokenizer
        config, kind = models.from_dict(meta.model), meta.kind
        prompt, max_length = meta.prompt, meta.max_length
    else:
        with local(source) as path:
            found = convert.read(path, heads=heads)
            beside = found.tokenizer or BERT
            # A folder that is gone afterwards is read now.
            if path != os.fspath(source) and os.path.isdir(beside):
                beside = Tokenizer.load(beside)
        params, config, kind, prompt = found.params, found.config, found.kind, found.prompt
        max_length = MAX_LENGTH.get(kind, 35)
    params, config = at_size(params, config, image_size)
    config = dataclasses.replace(config, dtype=dtype, quirks=(*config.quirks, *quirks))
    given = beside if tokenizer is None else tokenizer
    return Model(params, config, given, kind=kind, prompt=prompt, max_length=max_length)


def at_size(
    params: dict, config: models.BlipConfig, image_size: int | None
) -> tuple[dict, models.BlipConfig]:
    """The model for images of another size.

    Raises:
      UserError: the size is not a multiple of the patch.
    """
    if image_size in (None, config.vit.image_size):
        return params, config
    config = dataclasses.replace(config, vit=dataclasses.replace(config.vit, image_size=image_size))
    position = np.asarray(params["vit"]["position"])
    position = models.resize_position(position, config.vit.tokens)
    return {**params, "vit": {**params["vit"], "position": position}}, config


@contextlib.contextmanager
def local(source: str | os.PathLike) -> Iterator[str]:
    """The path of a file or folder on this machine, fetched if need be.

    Raises:
      UserError: there is none.
    """
    name = os.fspath(source)
    place = epath.Path(name)
    if place.exists() and "://" not in name:
        yield name
    elif place.exists():
        with tempfile.TemporaryDirectory() as folder:
            yield _fetched(place, folder)
    elif HUB_ID.fullmatch(name) and not name.endswith(SUFFIXES):
        yield _from_hub(name)
    else:
        raise UserError(f"{name} does not exist")


def _fetched(place: epath.Path, folder: str) -> str:
    """Copies a file, or the files right in a folder."""
    files = [x for x in place.iterdir() if x.is_file()] if place.is_dir() else [place]
    for file in files:
        file.copy(epath.Path(folder) / file.name)
    return folder if place.is_dir() else os.path.join(folder, place.name)


def _from_hub(name: str) -> str:
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=HUB_FILES)
    except Exception as error:  # its own kinds, and those of several HTTP libraries
        raise UserError(
            f"{name} is neither a path here nor an id that Hugging Face gave "
            f"({type(error).__name__})"
        ) from error
