"""Where a scored dataset comes from: `provenance.json`, the manifest of its images, and commands.

`provenance.json` in the folder of the shards holds {"dataset", "split", "captioners": [{"name",
"path", "sha256"}], "filters" and "extra_scores": [the same], "decoding": [the fields of each
Decoding], "seed", "version", "command"}; the path of the dataset is relative to the folder if
possible, so that both can be moved together.
"""

import contextlib
import os
import shlex
from collections.abc import Mapping
from typing import Any

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.config import command_line_flags, from_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import absolute_path, read_json, write_json

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
    found = read_json(path)
    if fault := _fault(found):
        raise UserError(f"{path} is damaged ({fault}); run capfilt again")
    dataset = absolute_path(found["dataset"], path.parent)
    return found | {"dataset": dataset if "://" in dataset else os.path.normpath(dataset)}


def _fault(found: Any) -> str:
    """Returns which value of a provenance is not what it should be; "" if none."""
    if not isinstance(found, dict):
        return "expected an object"
    texts = {name: found.get(name, "") for name in ("split", "texts", "version", "command")}
    for name, value in {**texts, "dataset": found.get("dataset")}.items():
        if not isinstance(value, str):
            return f"{name} is {value!r}"
    for role in ("captioners", "filters", "extra_scores"):
        models = found.get(role, [])
        if not isinstance(models, list):
            return f"{role} is {models!r}"
        for model in models:
            if not isinstance(model, dict) or not all(
                isinstance(model.get(name), str) for name in ("name", "path", "sha256")
            ):
                return f"{role} has {model!r}"
    return ""


def write(directory: str, found: dict) -> None:
    """Writes provenance.json, whole or not at all; the dataset's path is stored as given."""
    write_json(epath.Path(directory) / FILE, found)


def manifest(dataset: str) -> dict[str, Any]:
    """Returns the manifest that `prepare` wrote into a dataset's folder; {} if there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(dataset) / MANIFEST
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        return {}
    if "records_read" in found:
        skipped = found.get("skipped")
        counts = [found["records_read"], found.get("rows")]
        counts += skipped.values() if isinstance(skipped, dict) else [None]
        if not all(isinstance(count, int) for count in counts):
            raise UserError(f"{path} is damaged (counts that are no numbers); prepare it again")
    return found


def commands(dataset: str, prepared: Mapping, provenance: Mapping) -> list[str]:
    """Returns the known commands that made a dataset, in order; the last one is the present one."""
    found = []
    settings = prepared.get("settings")
    if isinstance(settings, dict) and "source" in settings:
        argv = ["blip-jax", "prepare", "--workdir", dataset]
        # The settings of another version are left out.
        with contextlib.suppress(UserError, TypeError, ValueError):
            flags = command_line_flags(from_json(IngestConfig, settings))
            found.append(shlex.join([*argv, *flags]))
    if provenance.get("command"):
        found.append(provenance["command"])
    return [*found, *filter(None, [command_line()])]
