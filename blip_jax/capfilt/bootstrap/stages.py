"""Stages that leave a marker when they are done, so that a run goes on where it stopped."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from blip_jax.runtime.errors import UserError


class Stages:
    """The stages of one workdir.

    Args:
      workdir: folder of the run; made if missing.
      config: all that decides the results. A workdir belongs to one config.

    Raises:
      UserError: the workdir was begun with another config.
    """

    def __init__(self, workdir: str, config: Mapping[str, Any]):
        self.workdir = epath.Path(workdir)
        self._markers = self.workdir / "stages"
        self._markers.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=1, sort_keys=True)
        path = self.workdir / "config.json"
        if path.exists() and path.read_text() != text:
            changed = ", ".join(_differences(json.loads(path.read_text()), json.loads(text)))
            raise UserError(
                f"{workdir} was begun with another config (it differs in {changed}): "
                "use a new workdir, or the old config"
            )
        path.write_text(text)

    def do(self, name: str, work: Callable[[], dict | None], note: str = "") -> dict:
        """What `work` returned (plain JSON values), now or in an earlier call."""
        marker = self._markers / f"{name}.json"
        if marker.exists():
            print(f"-- {name}: done already", file=sys.stderr)
            return self.result(name)
        print(f"-- {name}{': ' if note else ''}{note}", file=sys.stderr)
        begun = time.time()
        result = work() or {}
        seconds = time.time() - begun
        print(f"-- {name}: {seconds:.0f} s", file=sys.stderr)
        unfinished = self._markers / f"{name}.tmp"
        content = {"name": name, "note": note, "seconds": seconds, "result": result}
        unfinished.write_text(json.dumps(content))
        unfinished.rename(marker)
        return result

    def result(self, name: str) -> dict:
        """What the work of a stage that is done returned."""
        return json.loads((self._markers / f"{name}.json").read_text())["result"]

    def times(self) -> list[dict]:
        """Name, seconds and note of the stages done, in the order in which they ended.

        The seconds of a stage that was interrupted are those of its last call.
        """
        markers = sorted(self._markers.glob("*.json"), key=lambda path: path.stat().mtime)
        found = [json.loads(path.read_text()) for path in markers]
        return [{key: stage[key] for key in ("name", "seconds", "note")} for stage in found]


def _differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    names = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names
