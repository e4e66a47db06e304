"""Stages that are recorded when done, so that a run resumes after the last finished one."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from blip_jax.runtime.config import to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, read_json, write_json
from blip_jax.runtime.fingerprint import FILE, check_fingerprint
from blip_jax.runtime.numbers import is_number

# Folders that the first stage of a run makes before it is done.
FIRST_FOLDERS = ("data", "tokenizer")


class Stages:
    """The stages of one workdir.

    Args:
      workdir: folder of the run; made if missing.
      verb: of the command line, which the workdir belongs to.
      config: everything that affects the results, a dataclass or a mapping. A workdir belongs to
        one config.
      inputs: digests of the files that the run is given.
      free: names of fields that may change when a run is resumed, as "config.title".

    Raises:
      UserError: the workdir holds another run.
    """

    def __init__(
        self,
        workdir: str,
        verb: str,
        config: Any,
        inputs: Mapping[str, Any],
        free: Sequence[str] = (),
    ):
        self.workdir = epath.Path(workdir)
        if self.workdir.exists() and not self.workdir.is_dir():
            raise UserError(f"{workdir} is not a folder; choose another folder")
        self._markers = self.workdir / "stages"
        done = any(self._markers.glob("*.json"))
        made = any((self.workdir / name).exists() for name in FIRST_FOLDERS)
        begun = done or (made and (self.workdir / FILE).exists())
        values = {"config": config, "inputs": dict(inputs)}
        check_fingerprint(self.workdir, verb, values, begun=begun, free=free)
        self._markers.mkdir(parents=True, exist_ok=True)
        write_json(self.workdir / "config.json", to_json(config))

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
        content["digest"] = _digest(name, result)
        with atomic_write(marker) as file:
            file.write(json.dumps(content))  # NaN stays NaN when the run is resumed
        return result

    def result(self, name: str) -> dict:
        """Returns the result of a stage that is done."""
        return _read_marker(self._markers / f"{name}.json")["result"]

    def times(self) -> list[dict]:
        """Returns name, seconds and note of the finished stages, in the order of their ends.

        The seconds of a stage that was interrupted are those of its last call.
        """
        markers = sorted(self._markers.glob("*.json"), key=lambda path: path.stat().mtime)
        found = [_read_marker(path) for path in markers]
        return [{key: stage[key] for key in ("name", "seconds", "note")} for stage in found]


def _read_marker(path: epath.Path) -> dict[str, Any]:
    """Returns what is recorded of a stage.

    Raises:
      UserError: the file is damaged.
    """
    try:
        found = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; delete it and rerun the same command") from error
    if not _is_marker(found, path.stem):
        raise UserError(f"{path} is damaged; delete it and rerun the same command")
    return found


def _is_marker(found: Any, name: str) -> bool:
    if not isinstance(found, dict) or found.get("name") != name:
        return False
    if not isinstance(found.get("note"), str) or not is_number(found.get("seconds")):
        return False
    # Earlier versions wrote no digest.
    result = found.get("result")
    digest = found["digest"] if "digest" in found else _digest(name, result)
    return isinstance(result, dict) and digest == _digest(name, result)


def _digest(name: str, result: Any) -> str:
    """Returns a hash of a stage's result, by which damage is found that is still JSON."""
    return hashlib.sha256(json.dumps([name, result]).encode()).hexdigest()
