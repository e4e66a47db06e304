"""Where models come from: workdirs, PyTorch checkpoints, Hugging Face folders and ids."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from blip_jax import checkpoints, losses, nn
from blip_jax.checkpoints.training import (
    CHECKPOINT_DIR,
    Metadata,
    load_state_items,
    save_model,
)
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER_DIR = "tokenizer"  # of a workdir
# The files of a Hugging Face repository that are used; other frameworks' weights are not fetched.
HUB_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin", "vocab.txt"]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".npz")


def read(
    source: str | os.PathLike,
    *,
    heads: Mapping[str, int] | None = None,
    whole: bool = True,
) -> checkpoints.Checkpoint:
    """What a source of `load` holds, with momentum encoder and queue if `whole`.

    Raises:
      UserError: there is no such model, or it is not whole.
    """
    if not (epath.Path(source) / CHECKPOINT_DIR).exists():
        with local_copy(source) as path:
            found = checkpoints.read(path, heads, whole)
            if path == os.fspath(source) or not os.path.isdir(found.tokenizer):
                return found
            # A folder that is gone afterwards is read now.
            return dataclasses.replace(found, tokenizer=Tokenizer.load(found.tokenizer))
    stored, meta = load_state_items(
        os.fspath(source), ("params", "extra") if whole else ("params",)
    )
    folder = epath.Path(source) / TOKENIZER_DIR
    tokenizer = os.fspath(folder) if folder.exists() else meta.tokenizer
    extra = stored.get("extra", {})
    queue = extra.get("queue")
    return checkpoints.Checkpoint(
        meta.model_type,
        from_json(nn.BlipConfig, meta.model),
        stored["params"],
        extra.get("momentum"),
        queue and losses.Queue(**queue),
        tokenizer,
        meta.prompt,
        meta.max_length,
    )


def write(checkpoint: checkpoints.Checkpoint, path: str, to: str) -> None:
    """Writes "original" and "hf" (see `checkpoints.write`), or "jax": a workdir.

    Raises:
      UserError: the format has no such model, or `path` is taken.
    """
    if to != "jax":
        checkpoints.write(checkpoint, path, to)
        return
    tokenizer, named = checkpoint.tokenizer, isinstance(checkpoint.tokenizer, str)
    if named and os.path.isdir(tokenizer):
        tokenizer, named = Tokenizer.load(tokenizer), False
    extra = {"momentum": checkpoint.momentum, "queue": checkpoint.queue}
    extra = {name: value for name, value in extra.items() if value is not None}
    meta = Metadata(
        model_type=checkpoint.model_type,
        model=to_json(checkpoint.config),
        prompt=checkpoint.prompt,
        max_length=checkpoint.max_length,
        tokenizer=tokenizer if named else "",
    )
    save_model(path, checkpoint.params, extra, meta)
    if not named:
        tokenizer.save(str(epath.Path(path) / TOKENIZER_DIR))


def with_image_size(
    params: dict, config: nn.BlipConfig, image_size: int | None
) -> tuple[dict, nn.BlipConfig]:
    """The model for images of another size.

    Raises:
      UserError: the size is not a multiple of the patch.
    """
    if image_size in (None, config.vit.image_size):
        return params, config
    config = dataclasses.replace(config, vit=dataclasses.replace(config.vit, image_size=image_size))
    position = np.asarray(params["vit"]["position"])
    position = nn.resize_position_embedding(position, config.vit.tokens)
    return {**params, "vit": {**params["vit"], "position": position}}, config


@contextlib.contextmanager
def local_copy(source: str | os.PathLike) -> Iterator[str]:
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
            yield _download(place, folder)
    elif HUB_ID.fullmatch(name) and not name.endswith(SUFFIXES):
        yield _from_hub(name)
    else:
        raise UserError(f"{name} does not exist")


def _download(place: epath.Path, folder: str) -> str:
    """Copies a file, or the files right in a folder."""
    files = [x for x in place.iterdir() if x.is_file()] if place.is_dir() else [place]
    for file in files:
        file.copy(epath.Path(folder) / file.name)
    return folder if place.is_dir() else os.path.join(folder, place.name)


def _from_hub(name: str) -> str:
    """The folder of a snapshot, downloaded once."""
    import huggingface_hub

    files: list[str] = []
    try:
        with contextlib.suppress(Exception):  # offline: what is there is taken
            files = huggingface_hub.list_repo_files(name)
        twice = any(file.endswith(".safetensors") for file in files)
        unwanted = ["*.bin"] if twice else []  # the same weights in another format
        return huggingface_hub.snapshot_download(
            name, allow_patterns=HUB_FILES, ignore_patterns=unwanted
        )
    except Exception as error:  # its own kinds, and those of several HTTP libraries
        raise UserError(
            f"{name} is neither a path here nor an id that Hugging Face gave "
            f"({type(error).__name__})"
        ) from error
