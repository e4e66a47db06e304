"""What decides the output of CapFilt: checked before it starts, and compared when it resumes."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

import blip_jax
from blip_jax.capfilt import provenance, storage
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.capfilt.inputs import CapFiltInput
from blip_jax.capfilt.plugins import Plugin
from blip_jax.capfilt.work_queue import ShardQueue
from blip_jax.models import Model
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import relative_path
from blip_jax.runtime.fingerprint import check_fingerprint

FREE = ("*.model.remat", "*.model.scan_unroll")  # changes that do not decide the output


def check_models(captioners: Mapping, filters: Mapping) -> None:
    """Raises a UserError that names the first model that cannot do its work."""
    if not filters:
        raise UserError("capfilt needs a filter to score texts; name one")
    works = (("captioner", "caption", captioners), ("filter", "match", filters))
    for role, capability, models in works:
        for name, (_, model) in models.items():
            if isinstance(model, Plugin):
                continue
            try:
                model.require(capability)
            except UserError as error:
                raise UserError(f"{role} {name!r}: {error}") from error


def fingerprint(
    settings: ScoringConfig,
    source: CapFiltInput,
    described: Mapping[str, list[dict]],
    models: Mapping[str, Mapping],
) -> dict[str, Any]:
    """Returns all that decides the output; see `check_fingerprint`.

    A plug-in counts by how it is named, with its options: its code may be corrected in between.

    Args:
      described: "captioners", "filters" and, if there are any, "extra_scores": `describe` of each.
      models: of the same roles, name to (path, model or plug-in).
    """
    found = {
        "format": storage.FORMAT,
        "dataset": source.digests(),
        "split": source.split,
        "decodings": {str(n): x for n, x in enumerate(settings.decodings)},
        "seed": settings.seed,
        "shard_rows": settings.shard_rows,
    }
    for role in described:
        found[role] = {"names": list(models[role])}
        for entry, (_, model) in zip(described[role], models[role].values(), strict=True):
            if isinstance(model, Plugin):
                found["plugin_image_size"] = settings.plugin_image_size
                found[role][entry["name"]] = {"plugin": model.text}
                continue
            found[role][entry["name"]] = {
                "sha256": entry["sha256"],
                "model": model.config,
                "prompt": model.prompt,
                "max_length": model.max_length,
                "tokenizer": model.tokenizer.digest,
            }
    return found


def check_same_run(
    settings: ScoringConfig,
    source: CapFiltInput,
    described: Mapping[str, list[dict]],
    same: Mapping[str, Any],
    shards: ShardQueue,
) -> None:
    """Writes fingerprint.json and provenance.json, or compares the run with an earlier one.

    Raises:
      UserError: the folder holds another run.
    """
    folder = epath.Path(settings.output)
    begun = folder.exists() and (storage.has_shards(settings.output) or shards.begun())
    check_fingerprint(folder, "capfilt", same, begun=begun, free=FREE)
    if begun:
        return
    found = {
        "dataset": relative_path(source.dataset, folder),
        "split": source.split,
        **described,
        "decoding": [dataclasses.asdict(decoding) for decoding in settings.decodings],
        "seed": settings.seed,
        "shard_rows": settings.shard_rows,
        "version": blip_jax.__version__,
        "command": settings.command,
    }
    if settings.dataset.endswith(".json"):
        found["texts"] = relative_path(settings.dataset, folder)
    provenance.write(settings.output, found)


def describe(role: str, name: str, path: str, model: Model | Plugin) -> dict[str, str]:
    """Returns a model's name, its path and the SHA-256 of its parameters; of a plug-in of its code.

    Raises:
      UserError: parameters are not finite.
    """
    if isinstance(model, Plugin):
        return {"name": name, "path": model.text, "sha256": model.sha256}
    digest = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        values = np.ascontiguousarray(jax.device_get(leaf))
        if not np.isfinite(values).all():
            raise UserError(
                f"{role} {name!r} ({path}) has weights that are NaN or infinite "
                f"({jax.tree_util.keystr(place)}); choose an earlier checkpoint"
            )
        digest.update(jax.tree_util.keystr(place).encode())
        digest.update(values)
    return {"name": name, "path": path, "sha256": digest.hexdigest()}
