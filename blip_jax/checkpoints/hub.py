"""Models on Hugging Face's hub, or one that HF_ENDPOINT names: fetched from it, pushed to it."""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from typing import Any

from blip_jax import checkpoints, nn
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.terminal import print_note

ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# The files of a repository that are read; other frameworks' weights are not fetched.
FILES = ["*.json", "*.safetensors", "pytorch_model*.bin", "vocab.txt"]
TIMEOUT_SECONDS = 4
PIPELINES = {
    "captioner": "image-to-text",
    "vqa": "visual-question-answering",
    "retrieval": "zero-shot-image-classification",
    "aligned": "zero-shot-image-classification",
}


def download(model_id: str) -> str:
    """Returns the folder of a snapshot, which is downloaded once and then kept in a cache.

    Prints on stderr what is downloaded.

    Args:
      model_id: "ORG/NAME", or with a branch, tag or commit "ORG/NAME@REVISION".

    Raises:
      UserError: there is no such repository, access to it is restricted, or it is not in the cache
        and the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    found = ID.fullmatch(model_id)
    name, revision = found["name"], found["revision"]
    options: dict[str, Any] = {"allow_patterns": FILES}
    try:
        # One request with a time limit and without retries finds errors before any download.
        info = huggingface_hub.HfApi().model_info(
            name, revision=revision, timeout=TIMEOUT_SECONDS, files_metadata=True
        )
        if any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
            options["ignore_patterns"] = ["*.bin"]  # the same weights in another format
        _print_fetched_files(name, revision, info, options)
        return huggingface_hub.snapshot_download(name, revision=revision, **options)
    except errors.GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise UserError(
            f"access to {name} is restricted; request it on huggingface.co and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is neither a local path nor a model on Hugging Face; check its name, or set "
            "HF_TOKEN if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{name} has no revision {revision}; give one of its branches, tags or commits"
        ) from error
    except Exception as error:  # raises its own types, and those of several HTTP libraries
        try:
            return huggingface_hub.snapshot_download(
                name, revision=revision, local_files_only=True, **options
            )
        except Exception:
            raise UserError(
                f"{model_id} is not a local path, and Hugging Face cannot be reached "
                f"({type(error).__name__}); check the network, or give a downloaded folder"
            ) from error


def _print_fetched_files(name: str, revision: str | None, info: Any, options: dict) -> None:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    missing = [
        file
        for file in filter_repo_objects(files, **options)
        if not isinstance(try_to_load_from_cache(name, file, revision=info.sha), str)
    ]
    if missing:
        megabytes = sum(files[file] for file in missing) / 1e6
        print_note(
            f"fetching {name}, revision {revision or 'main'} (commit {info.sha}): {len(missing)} "
            f"files, {megabytes:.1f} MB, from {constants.ENDPOINT} to {constants.HF_HUB_CACHE}"
        )


def push(
    checkpoint: checkpoints.Checkpoint,
    name: str,
    *,
    license: str = "",
    private: bool = False,
    metrics: dict[str, float] | None = None,
) -> str:
    """Writes a model to the hub as a folder that transformers loads, with a model card.

    Args:
      name: "ORG/NAME" of the repository, which is made if it does not exist.
      license: of the model, as the hub names it, as "apache-2.0"; "": not said.
      metrics: of its evaluations, by name, for the card.

    Returns: the address of the commit.

    Raises:
      UserError: Hugging Face has no format for the model type, or the hub does not take it.
    """
    import huggingface_hub

    found = ID.fullmatch(name)
    if not found or found["revision"]:
        raise UserError(f"{name} is not the name of a repository; give ORG/NAME")
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "model"
        checkpoints.write(checkpoint, str(folder), "hf")
        (folder / "README.md").write_text(card(checkpoint, name, license, metrics or {}), "utf-8")
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=name, folder_path=folder, commit_message="Model, written by blip_jax"
            )
        except Exception as error:  # raises its own types, and those of several HTTP libraries
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the hub did not take {name} ({reason or type(error).__name__}); check HF_TOKEN "
                "and the network"
            ) from error
    return commit.commit_url


def card(
    checkpoint: checkpoints.Checkpoint, name: str, license: str, metrics: dict[str, float]
) -> str:
    """Returns the model card, README.md, of what the checkpoint says of itself."""
    from huggingface_hub import ModelCardData

    import blip_jax

    pipeline = PIPELINES.get(checkpoint.model_type)
    data = ModelCardData(
        license=license or None, pipeline_tag=pipeline, library_name="transformers", tags=["blip"]
    )
    vit, med = checkpoint.config.vit, checkpoint.config.med
    trained_on = [
        f"- {os.path.basename(entry.dataset.rstrip('/'))}, split {entry.split}"
        + (f", {entry.images:,} images" if entry.images else "")
        for entry in checkpoint.trained_on or ()
    ]
    rows = [f"| {key} | {value:.4g} |" for key, value in sorted(metrics.items())]
    uses = ", ".join(nn.MODEL_TYPES[checkpoint.model_type].capabilities)
    table = (
        ["| metric | value |", "|---|---:|", *rows] if rows else ["Not stored in the checkpoint."]
    )
    return "\n".join([
        "---", data.to_yaml(), "---", "", f"# {name.partition('/')[2]}", "",
        f"A BLIP model of type `{checkpoint.model_type}` ({uses}): images of {vit.image_size} "
        f"pixels, ViT of {vit.depth} layers and width {vit.width}, text transformer of {med.depth} "
        f"layers and width {med.width}, {med.vocab_size} tokens.", "",
        "## Training data", "", *(trained_on or ["Not stored in the checkpoint."]), "",
        "## Metrics", "", *table, "",
        "## Provenance", "",
        f"Written by blip_jax {blip_jax.__version__}. Loads with transformers' `from_pretrained`, "
        f'and with `blip_jax.models.load("{name}")`.', "",
        "## Licence", "", license or "Not stated.", "",
    ])  # fmt: skip
