"""Where models come from and go to: workdirs, PyTorch files, Hugging Face folders and ids."""

import contextlib
import dataclasses
import difflib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from blip_jax import checkpoints, losses, nn
from blip_jax.checkpoints import hub, int8, training_data
from blip_jax.checkpoints.workdir import (
    Metadata,
    is_workdir,
    load_state_items,
    save_model,
    split_step,
)
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import DIVERGED, UserError
from blip_jax.runtime.extras import check_installed
from blip_jax.runtime.files import atomic_folder, check_regular, check_scheme

HUB_URL = re.compile(r"https?://(www\.)?(huggingface\.co|hf\.co)/(?P<id>[\w.-]+/[\w.-]+)")
TOKENIZER = "tokenizer"  # its folder in a workdir
PUBLISHED = tuple(
    f"Salesforce/blip-{name}"
    for name in (
        "image-captioning-base", "image-captioning-large", "vqa-base", "vqa-capfilt-large",
        "itm-base-coco", "itm-large-coco", "itm-base-flickr", "itm-large-flickr",
    )
)  # fmt: skip
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".npz")


def read(
    source: str | os.PathLike,
    *,
    heads: Mapping[str, int] | None = None,
    training_state: bool = True,
) -> checkpoints.Checkpoint:
    """Returns the checkpoint at `source`.

    Args:
      source: a training's workdir, or a step of one (RUN/checkpoints/300), a checkpoint of the
        original (`.pth`), or a Hugging Face folder, each local or `gs://`; or a Hugging Face id
        ("Salesforce/blip-itm-base-coco"), which may end with a revision ("ORG/NAME@REVISION").
      heads: see `checkpoints.read`.
      training_state: also read the momentum encoder and the queue.

    Raises:
      UserError: it does not exist or is incomplete.
    """
    check_source(source)
    if not is_workdir(os.fspath(source)):
        with local_copy(source) as path:
            found = checkpoints.read(path, heads, training_state)
            if path == os.fspath(source) or not os.path.isdir(found.tokenizer):
                return found
            # The folder is temporary, so its tokenizer is read now.
            return dataclasses.replace(found, tokenizer=Tokenizer.load(found.tokenizer))
    names = ("params", "extra") if training_state else ("params",)
    stored, meta = load_state_items(os.fspath(source), names)
    if meta.model_type not in nn.MODEL_TYPES:
        raise UserError(
            f"{source} holds a model of type {meta.model_type!r:.80}; import the file that "
            f"registers it, or load one of type {', '.join(nn.MODEL_TYPES)}"
        )
    _check_finite(source, stored["params"])
    own = epath.Path(split_step(os.fspath(source))[0]) / TOKENIZER
    tokenizer = os.fspath(own) if own.exists() else meta.tokenizer
    extra = stored.get("extra", {})
    queue = extra.get("queue")
    return checkpoints.Checkpoint(
        meta.model_type,
        _config(source, meta.model),
        int8.dequantize(stored["params"]),
        extra.get("momentum"),
        queue and losses.Queue(**queue),
        tokenizer,
        meta.prompt,
        meta.max_length,
        _training_data(source, meta),
    )


def read_training_data(
    source: str | os.PathLike,
) -> tuple[training_data.TrainingDataset, ...] | None:
    """Returns `Checkpoint.trained_on` of what `read` takes, without its weights.

    Raises:
      UserError: as `read`.
    """
    check_source(source)
    if not is_workdir(os.fspath(source)):
        with local_copy(source) as path:
            return checkpoints.read_training_data(path)
    return _training_data(source, load_state_items(os.fspath(source), ())[1])


def _training_data(
    source: str | os.PathLike, meta: Metadata
) -> tuple[training_data.TrainingDataset, ...] | None:
    """Returns what a workdir says of its training; by the metadata, no images are known."""
    found = training_data.read(split_step(os.fspath(source))[0])
    return found if found is not None else training_data.from_json(meta.trained_on) or None


def check_source(source: str | os.PathLike) -> None:
    """Raises a UserError for a URL that is not read here, a pipe, or a path that no file has."""
    name = os.fspath(source)
    if found := HUB_URL.match(name):
        raise UserError(
            f"{name} is not a local path: download it, or give the model's id, {found['id']}"
        )
    check_scheme(name)
    try:
        epath.Path(name).exists()
    except OSError as error:
        raise UserError(f"{name:.80} cannot be read ({error.strerror})") from error
    check_regular(name)


def _config(source: str | os.PathLike, values: dict) -> nn.BlipConfig:
    try:
        return from_json(nn.BlipConfig, values)
    except (TypeError, ValueError, AttributeError) as error:
        detail = f" ({error})" if isinstance(error, UserError) else ""
        raise UserError(f"the model's configuration in {source} cannot be read{detail}") from error


def _check_finite(source: str | os.PathLike, params: dict) -> None:
    for name, leaf in flatten_dict(params, sep="/").items():
        if not np.isfinite(np.asarray(leaf)).all():
            raise UserError(f"{source}: its weights hold NaN or infinity ({name}); {DIVERGED}")


def write(checkpoint: checkpoints.Checkpoint, path: str, to: str) -> None:
    """Writes a checkpoint in the format `to`: "original" or "hf" (see `checkpoints.write`), or
    "jax", a workdir, as training writes it, or "int8", a workdir with int8 matrices, for inference.

    Raises:
      UserError: the format does not support the model type, or `path` exists.
    """
    if to == "int8":
        check_installed("int8", "qwix")
        params = int8.quantize(checkpoint.params)
        checkpoint = dataclasses.replace(checkpoint, params=params, momentum=None, queue=None)
    elif to != "jax":
        checkpoints.write(checkpoint, path, to)
        return
    tokenizer, is_name = checkpoint.tokenizer, isinstance(checkpoint.tokenizer, str)
    if is_name and os.path.isdir(tokenizer):
        tokenizer, is_name = Tokenizer.load(tokenizer), False
    extra = {"momentum": checkpoint.momentum, "queue": checkpoint.queue}
    extra = {name: value for name, value in extra.items() if value is not None}
    meta = Metadata(
        model_type=checkpoint.model_type,
        model=to_json(checkpoint.config),
        prompt=checkpoint.prompt,
        max_length=checkpoint.max_length,
        tokenizer=tokenizer if is_name else "",
        trained_on=tuple(entry.names() for entry in checkpoint.trained_on or ()),
    )
    with contextlib.nullcontext(path) if "://" in path else atomic_folder(path) as folder:
        save_model(str(folder), checkpoint.params, extra, meta)
        if checkpoint.trained_on:
            training_data.write(folder, checkpoint.trained_on)
        if not is_name:
            tokenizer.save(str(epath.Path(folder) / TOKENIZER))


def with_image_size(
    checkpoint: checkpoints.Checkpoint, image_size: int | None
) -> checkpoints.Checkpoint:
    """Returns the checkpoint for images of `image_size` pixels a side; None: as it is.

    The position embeddings of the model and of its momentum encoder are resized.

    Raises:
      UserError: the size is not a multiple of the patch.
    """
    vit = checkpoint.config.vit
    if image_size in (None, vit.image_size):
        return checkpoint
    vit = dataclasses.replace(vit, image_size=image_size)
    config = dataclasses.replace(checkpoint.config, vit=vit)

    def resized(params: dict) -> dict:
        position = np.asarray(params["vit"]["position"])
        position = nn.resize_position_embedding(position, vit.tokens)
        return {**params, "vit": {**params["vit"], "position": position}}

    momentum = checkpoint.momentum
    return dataclasses.replace(
        checkpoint,
        config=config,
        params=resized(checkpoint.params),
        momentum=None if momentum is None else resized(momentum),
    )


@contextlib.contextmanager
def local_copy(source: str | os.PathLike) -> Iterator[str]:
    """Yields the path of a local copy of a file or folder: itself if it is local already.

    Args:
      source: a path, local or `gs://`, or a Hugging Face id.

    Raises:
      UserError: it does not exist.
    """
    check_source(source)
    name = os.fspath(source)
    place = epath.Path(name)
    if place.exists() and "://" not in name:
        yield name
    elif place.exists():
        with tempfile.TemporaryDirectory() as folder:
            yield _download(place, folder)
    elif hub.ID.fullmatch(name) and not name.endswith(SUFFIXES):
        yield hub.download(name)
    else:
        raise UserError(f"{name} does not exist{_hub_suggestion(name)}")


def _hub_suggestion(name: str) -> str:
    """Returns "; did you mean Salesforce/…?" for a bare name like one of the published models."""
    close = difflib.get_close_matches(name, [x.split("/")[1] for x in PUBLISHED], 1)
    return f"; did you mean Salesforce/{close[0]}?" if close and "/" not in name else ""


def _download(place: epath.Path, folder: str) -> str:
    """Copies a file, or the files of a folder (not of its subfolders); returns the copy's path."""
    files = [x for x in place.iterdir() if x.is_file()] if place.is_dir() else [place]
    for file in files:
        file.copy(epath.Path(folder) / file.name)
    return folder if place.is_dir() else os.path.join(folder, place.name)
