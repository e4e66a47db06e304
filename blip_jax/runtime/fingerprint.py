"""What decides the output of a run that can be resumed: written at its start, compared later.

A fingerprint is a nested dict of JSON values: the config, and digests of input files and model
weights. A run that is resumed with another fingerprint would mix two results, and is refused with
the names of what changed.
"""

import dataclasses
import fnmatch
import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import fsspec
import numpy as np
from etils import epath

from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.config import is_group, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_regular, nan_to_null, read_json, write_json

FILE = "fingerprint.json"
VERSION = 1  # of what the library writes: a run of another version cannot be resumed
SAMPLE_BYTES = 1 << 16  # of each part of a large file that is read
SAMPLES = 6  # parts of a large file that are read
READ_FILES = 64  # files of a folder whose contents are read

Resume = Literal["same", "anyway"]


def file_digest(path: str | os.PathLike) -> str:
    """Returns the size and a hash of a file, local or `gs://`; "missing" if it does not exist.

    Of a file above SAMPLES * SAMPLE_BYTES that many evenly spaced parts are read, the first and the
    last bytes included, so that the shards of a large dataset take milliseconds.
    """
    path = epath.Path(path)
    if not path.exists():
        return "missing"
    check_regular(path)
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


def folder_digest(folder: str | os.PathLike, names: Collection[str] | None = None) -> str:
    """Returns one hash of the names, sizes and contents of a folder's files, at any depth.

    Contents count by `file_digest`, of at most READ_FILES evenly spaced files. Hidden files are
    left out. The place of the folder does not count, so it can be moved.

    Args:
      names: the files of the folder itself that count; None: all, at any depth.
    """
    files, root = fsspec.core.url_to_fs(os.fspath(folder))
    root, counted = root.rstrip("/"), None if names is None else set(names)
    listed = files.find(root, maxdepth=None if counted is None else 1, detail=True)
    found = {
        path[len(root) + 1 :]: info["size"]
        for path, info in sorted(listed.items())
        if "/." not in path[len(root) :] and (counted is None or path[len(root) + 1 :] in counted)
    }
    digest = hashlib.sha256()
    read = set(list(found)[:: max(1, -(-len(found) // READ_FILES))])
    for name, size in found.items():
        content = file_digest(epath.Path(folder) / name) if name in read else size
        digest.update(f"{name}: {content}\n".encode())
    return f"{len(found)} files, {sum(found.values())} bytes, sha256 {digest.hexdigest()[:16]}"


def path_digest(path: str | os.PathLike) -> str:
    """Returns the digest of a file or folder; "" if there is none, as for the id of a model."""
    found = epath.Path(path) if path else None
    if found is None or not found.exists():
        return ""
    return folder_digest(found) if found.is_dir() else file_digest(found)


def values_digest(settings: Any, *arrays: np.ndarray) -> str:
    """Returns one hash of JSON values and of arrays, 64 hex digits."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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
    verb: str,
    values: Mapping[str, Any],
    *,
    begun: bool,
    free: Sequence[str] = (),
    adjustable: Sequence[str] = (),
    resume: Resume = "same",
) -> None:
    """Compares a run with the one that `folder` holds, and records it in fingerprint.json.

    Args:
      folder: output folder of the run.
      verb: of the command line that makes the run; a folder of another verb's is refused.
      values: the fingerprint, nested; dataclasses in it become JSON. A field that the earlier run
        did not know, as its version of the library was older, counts as its default.
      begun: whether the folder holds results that the run continues; False: the file is replaced.
      free: patterns of names that may change without notice: logging, number of threads.
      adjustable: patterns of names that may change with `resume` "anyway"; the change is recorded
        under "history".
      resume: "same" or "anyway"; the latter also continues a run of which the file is missing.

    Raises:
      UserError: something else changed, or the file is missing or damaged.
    """
    check_verb(folder, verb)
    path = epath.Path(folder) / FILE
    now = _as_json({"version": VERSION, "verb": verb, **values})
    stored = _read(path)
    if not begun or (resume == "anyway" and not path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"values": now, "history": []})
        return
    if not stored:
        fault = "damaged" if path.exists() else "missing"
        advice = ", or continue with --resume=anyway" if adjustable and fault == "missing" else ""
        raise UserError(
            f"{path} is {fault}, so that nothing tells what the files beside it were made of; "
            f"choose another folder{advice}"
        )
    before, history = flatten(stored["values"]), stored["history"]
    after = flatten(now)
    before = _new_fields(before, after, flatten(_as_json(_default_values(values)))) | before
    changes = {
        name: [before.get(name), after.get(name)]
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not _matches(name, free)
    }
    refused = [name for name in changes if resume == "same" or not _matches(name, adjustable)]
    if refused:
        raise UserError(_refusal(folder, changes, refused, adjustable))
    if changes:
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        record |= {"command": command_line(), "changes": changes}
        write_json(path, {"values": now, "history": [*history, record]})


def _default_values(value: Any) -> dict[str, Any]:
    """Returns the defaults of the fields of dataclasses, nested as in `to_json`.

    Args:
      value: a dataclass, or a mapping with some; fields without a default are left out.
    """
    if isinstance(value, Mapping):
        nested = {str(key): _default_values(entry) for key, entry in value.items()}
        return {key: entry for key, entry in nested.items() if entry}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value) if is_group(value) else ():
        if is_group(own := getattr(value, field.name)):
            found[field.name] = _default_values(own)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = to_json(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = to_json(field.default_factory())
    return found


def _new_fields(before: dict, after: dict, defaults: dict) -> dict[str, Any]:
    """Returns the defaults of the fields of now that an earlier version did not know.

    Those of a group that was None, say, do not count: the group itself was known.
    """

    def was_known(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:count]) in before for count in range(1, len(parts) + 1))

    return {name: x for name, x in defaults.items() if name in after and not was_known(name)}


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(nan_to_null(to_json(values))))


def check_verb(folder: str | os.PathLike, verb: str) -> None:
    """Raises a UserError if `folder` holds the run of another verb."""
    stored = _read(epath.Path(folder) / FILE)
    if stored and (other := stored["values"].get("verb", verb)) != verb:
        raise UserError(
            f"{os.fspath(folder)} holds a run of blip-jax {other}; choose another folder"
        )


def _read(path: epath.Path) -> dict[str, Any]:
    """Returns {"values": …, "history": …} of a fingerprint; {} if it is missing or damaged."""
    try:
        stored = read_json(path)
        return {"values": dict(stored["values"]), "history": list(stored["history"])}
    except (UserError, ValueError, KeyError, TypeError):
        return {}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _refusal(
    folder: str | os.PathLike, changes: dict, refused: list[str], adjustable: Sequence[str]
) -> str:
    told = [f"{name} was {_short(changes[name][0])}, now {_short(changes[name][1])}"
            for name in refused[:3]]  # fmt: skip
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    advice = "choose another folder, or rerun with what it was"
    if all(_matches(name, adjustable) for name in refused):
        advice = "rerun with what it was, or continue with --resume=anyway"
    return f"{os.fspath(folder)} holds another run: {'; '.join(told)}{more}; {advice}"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
