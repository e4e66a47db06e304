"""How a dataset came to be: what its import and its scoring wrote down beside it."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.config import command_line_flags, from_json

MANIFEST = "manifest.json"


def manifest(dataset: str) -> dict[str, Any]:
    """What `prepare` wrote: 'records_read', 'rows', 'skipped', 'settings', …; {} if it did not."""
    path = epath.Path(dataset) / MANIFEST
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def commands(dataset: str, prepared: Mapping, provenance: Mapping) -> list[str]:
    """The calls that led here, in order, as far as they are known; the last one is this."""
    found = []
    if "source" in prepared.get("settings", {}):
        argv = ["blip-jax", "prepare", "--workdir", dataset]
        argv += command_line_flags(from_json(IngestConfig, prepared["settings"]))
        found.append(shlex.join(argv))
    if provenance.get("command"):
        found.append(provenance["command"])
    return [*found, *filter(None, [command_line()])]
