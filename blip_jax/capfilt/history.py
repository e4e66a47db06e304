"""How a dataset came to be: what its import and its scoring wrote down beside it."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from blip_jax.data.ingest import config as ingest_config
from blip_jax.runtime.command_line import command_line

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
        argv = ["blip-jax", "prepare", "--config", "configs/prepare.py", "--workdir", dataset]
        own, usual = prepared["settings"], ingest_config.defaults().to_dict()
        argv += [f"--config.{name}={value}" for name, value in _changed(own, usual)]
        found.append(shlex.join(argv))
    if provenance.get("command"):
        found.append(provenance["command"])
    return [*found, *filter(None, [command_line()])]


def _changed(own: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that are not the usual ones, by their names on the command line."""
    for name, value in own.items():
        other = usual.get(name)
        if isinstance(other, Mapping):
            inner = _changed(dict(value), other)
            yield from ((f"{name}.{field}", given) for field, given in inner)
        elif isinstance(other, tuple):
            if tuple(value) != other:
                yield name, tuple(value)
        elif value != other:
            yield name, value
