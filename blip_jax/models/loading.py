"""Finding a model: workdirs, PyTorch checkpoints, Hugging Face folders and ids."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from blip_jax import checkpoints, losses, nn
from blip_jax.checkpoints.training import FOLDER, Metadata, load_parts, save_model
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.models.model import Model
from blip_jax.runtime.errors import UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER = "tokenizer"  # a workdir's folder of it
# What a Hugging Face repository has for us; other frameworks' weights stay there.
HUB_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin", "vocab.txt"]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".npz")


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
    found = read(source, heads=heads, whole=False)
    params, config = with_image_size(found.params, found.config, image_size)
    config = dataclasses.replace(config, dtype=dtype, quirks=(*config.quirks, *quirks))
    given = found.tokenizer if tokenizer is None else tokenizer
    described = {name: getattr(found, name) for name in ("model_type", "prompt", "max_length")}
    return Model(params, config, given, **described)


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
    if not (epath.Path(source) / FOLDER).exists():
        with local(source) as path:
            found = checkpoints.read(path, heads, whole)
            if path == os.fspath(source) or not os.path.isdir(found.tokenizer):
                return found
            # A folder that is gone afterwards is read now.
            return dataclasses.replace(found, tokenizer=Tokenizer.load(found.tokenizer))
    parts = ("params", "momentum", "queue") if whole else ("params",)
    stored, meta = load_parts(os.fspath(source), parts)
    beside = epath.Path(source) / TOKENIZER
    tokenizer = os.fspath(beside) if beside.exists() else meta.tokenizer
    queue = stored.get("queue")
    return checkpoints.Checkpoint(
        meta.model_type,
        nn.from_dict(meta.model),
        stored["params"],
        stored.get("momentum"),
        queue and losses.Queue(**queue),
        tokenizer,
        meta.prompt,
        meta.max_length,
    )


def write(checkpoint: checkpoints.Checkpoint, path: str, to: str) -> None:
    """Writes "original" and "hf" (see `convert.write`), or "jax": a workdir.

    Raises:
      UserError: the format has no such model, or `path` is taken.
    """
    if to != "jax":
        checkpoints.write(checkpoint, path, to)
        return
    tokenizer, named = checkpoint.tokenizer, isinstance(checkpoint.tokenizer, str)
    if named and os.path.isdir(tokenizer):
        tokenizer, named = Tokenizer.load(tokenizer), False
    parts = {"params": checkpoint.params}
    if checkpoint.momentum is not None:
        parts["momentum"] = checkpoint.momentum
    if checkpoint.queue is not None:
        parts["queue"] = checkpoint.queue._asdict()
    meta = Metadata(
        nn.to_dict(checkpoint.config),
        checkpoint.model_type,
        checkpoint.prompt,
        checkpoint.max_length,
        tokenizer if named else "",
    )
    save_model(path, parts, meta)
    if not named:
        tokenizer.save(str(epath.Path(path) / TOKENIZER))


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
