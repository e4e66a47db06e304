"""Stages that are recorded when done, so that a run resumes after the last finished one."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write


class Stages:
    """The stages of one workdir.

    Args:
      workdir: folder of the run; made if missing.
      config: everything that affects the results. A workdir belongs to one config.

    Raises:
      UserError: the workdir was started with another config.
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
                f"{workdir} was started with another config (it differs in {changed}); "
                "choose another --workdir, or use the old config"
            )
        with atomic_write(path) as file:
            file.write(text)

    def run_stage(self, name: str, work: Callable[[], dict | None], note: str = "") -> dict:
        """Runs `work` unless done before; returns its result, now or from before (JSON values)."""
        marker = self._markers / f"{name}.json"
        if marker.exists():
            print(f"[{name}] already done", file=sys.stderr)
            return self.result(name)
        print(f"[{name}] {note}".rstrip(), file=sys.stderr)
        started = time.time()
        result = work() or {}
        seconds = time.time() - started
        print(f"[{name}] done in {seconds:.0f} s", file=sys.stderr)
        content = {"name": name, "note": note, "seconds": seconds, "result": result}
        with atomic_write(marker) as file:
            file.write(json.dumps(content))  # NaN stays NaN when the run is resumed
        return result

    def result(self, name: str) -> dict:
        """Returns the result of a stage that is done."""
        return json.loads((self._markers / f"{name}.json").read_text())["result"]

    def times(self) -> list[dict]:
        """Returns name, seconds and note of the finished stages, in the order of their ends.

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
