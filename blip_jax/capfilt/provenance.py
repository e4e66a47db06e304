"""Where a scored dataset comes from: `provenance.json`, the manifest of its images, and commands.

`provenance.json` in the folder of the shards holds {"dataset", "split", "captioners": [{"name",
"path", "sha256"}], "filters": [the same], "decoding": [the fields of each Decoding], "seed",
"version", "command"}; the path of the dataset is relative to the folder if possible, so that both
can be moved together.
"""

import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.config import command_line_flags, from_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import absolute_path, write_json

FILE = "provenance.json"
MANIFEST = "manifest.json"


def read(directory: str) -> dict:
    """Returns the provenance with the dataset's path in full; {} if there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(directory) / FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        dataset = absolute_path(found["dataset"], path.parent)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); run capfilt again") from error
    return found | {"dataset": dataset if "://" in dataset else os.path.normpath(dataset)}


def write(directory: str, found: dict) -> None:
    """Writes provenance.json, whole or not at all; the dataset's path is stored as given."""
    write_json(epath.Path(directory) / FILE, found)


def manifest(dataset: str) -> dict[str, Any]:
    """Returns the manifest that `prepare` wrote into a dataset's folder; {} if there is none."""
    path = epath.Path(dataset) / MANIFEST
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def commands(dataset: str, prepared: Mapping, provenance: Mapping) -> list[str]:
    """Returns the known commands that made a dataset, in order; the last one is the present one."""
    found = []
    if "source" in prepared.get("settings", {}):
        argv = ["blip-jax", "prepare", "--workdir", dataset]
        argv += command_line_flags(from_json(IngestConfig, prepared["settings"]))
        found.append(shlex.join(argv))
    if provenance.get("command"):
        found.append(provenance["command"])
    return [*found, *filter(None, [command_line()])]
