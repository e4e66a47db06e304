"""What decides the output of a run that can be resumed: written at its start, compared later.

A fingerprint is a nested dict of JSON values: the config, and digests of input files and model
weights. A run that is resumed with another fingerprint would mix two results, and is refused with
the names of what changed.
"""

import fnmatch
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from etils import epath

from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import nan_to_null, write_json

FILE = "fingerprint.json"
VERSION = 1  # of what the library writes: a run of another version cannot be resumed
SAMPLE_BYTES = 1 << 16  # of each part of a large file that is read
SAMPLES = 6  # parts of a large file that are read

Resume = Literal["same", "anyway"]


def file_digest(path: str | os.PathLike) -> str:
    """Returns the size and a hash of a file, local or `gs://`; "missing" if it does not exist.

    Of a file above SAMPLES * SAMPLE_BYTES that many evenly spaced parts are read, the first and the
    last bytes included, so that the shards of a large dataset take milliseconds.
    """
    path = epath.Path(path)
    if not path.exists():
        return "missing"
    size = path.stat().length
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for part in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * part // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return f"{size} bytes, sha256 {digest.hexdigest()[:16]}"


def folder_digest(
    path: str | os.PathLike, is_input: Callable[[str], bool] = lambda name: True
) -> str:
    """Returns one hash of the names and `file_digest`s of a folder's files, subfolders included.

    Hidden files are left out. The place of the folder does not count, so it can be moved.
    """
    root, digest, count = epath.Path(path), hashlib.sha256(), 0
    for name in sorted(_file_names(root)):
        if is_input(name):
            digest.update(f"{name}: {file_digest(root / name)}\n".encode())
            count += 1
    return f"{count} files, sha256 {digest.hexdigest()[:16]}"


def _file_names(root: epath.Path, prefix: str = "") -> list[str]:
    names = []
    for path in root.iterdir() if root.exists() else ():
        if path.name.startswith("."):
            continue
        name = f"{prefix}{path.name}"
        names += _file_names(path, f"{name}/") if path.is_dir() else [name]
    return names


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with names joined by dots: {"optimizer.clip_norm": 1.0}."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_fingerprint(
    folder: str | os.PathLike,
    values: Mapping[str, Any],
    *,
    free: Sequence[str] = (),
    adjustable: Sequence[str] = (),
    resume: Resume = "same",
    write: bool = True,
) -> None:
    """Compares a run with the one that `folder` holds, and records it in fingerprint.json.

    Args:
      folder: output folder of the run; a folder without fingerprint.json holds none yet.
      values: the fingerprint, nested.
      free: patterns of names that may change without notice: logging, number of threads.
      adjustable: patterns of names that may change with `resume` "anyway"; the change is recorded
        under "history".
      resume: "same" or "anyway".
      write: whether this process writes the file; of several only the first does.

    Raises:
      UserError: something else changed, or the file is damaged.
    """
    path = epath.Path(folder) / FILE
    now = json.loads(json.dumps(nan_to_null({"version": VERSION, **values})))
    if not path.exists():
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"values": now, "history": []})
        return
    try:
        stored = json.loads(path.read_text())
        before, history = flatten(stored["values"]), list(stored["history"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; choose another folder") from error
    after = flatten(now)
    changes = {
        name: [before.get(name), after.get(name)]
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not _matches(name, free)
    }
    refused = [name for name in changes if resume == "same" or not _matches(name, adjustable)]
    if refused:
        raise UserError(_refusal(folder, changes, refused, adjustable))
    if changes and write:
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        record |= {"command": command_line(), "changes": changes}
        write_json(path, {"values": now, "history": [*history, record]})


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _refusal(
    folder: str | os.PathLike, changes: dict, refused: list[str], adjustable: Sequence[str]
) -> str:
    told = [f"{name} was {_short(changes[name][0])}, now {_short(changes[name][1])}"
            for name in refused[:3]]  # fmt: skip
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    mend = "choose another folder, or rerun with what it was"
    if all(_matches(name, adjustable) for name in refused):
        mend = "rerun with what it was, or continue with --resume=anyway"
    return f"{os.fspath(folder)} holds another run: {'; '.join(told)}{more}; {mend}"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
