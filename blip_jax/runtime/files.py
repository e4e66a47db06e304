"""Files that are written whole or not at all, JSON, and paths that can be moved together.

A file or folder is written under a temporary name in the folder of its target and renamed when it
is complete, so that a reader, a crash or a full disk never leaves half of it under its own name.
Object stores (`gs://…`) have no rename, and need none: an object appears when its upload ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.host import is_running

INCOMPLETE = ".incomplete-"  # prefix of the names of unfinished files and folders


def temporary_name(name: str) -> str:
    """Returns `.incomplete-HOST-PID-RANDOM-NAME`, which no other process uses.

    It has at most 255 bytes, the limit of file systems; of a long `name` the end is kept.
    """
    return f"{_temporary_prefix()}{os.getpid()}-{uuid.uuid4().hex[:8]}-{name[-48:]}"


def _temporary_prefix() -> str:
    host = re.sub(r"[^A-Za-z0-9.]", "-", socket.gethostname())[:32]
    return f"{INCOMPLETE}{host}-"


def final_name(path: str | os.PathLike) -> str:
    """Returns the path that a temporary one stands for, for messages; others as they are."""
    return re.sub(rf"{re.escape(INCOMPLETE)}[^/]*?-\d+-[0-9a-f]{{8}}-", "", os.fspath(path))


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields a local path to write to; what is there at the end replaces the file `path`.

    For libraries that open files themselves; else use `atomic_write`. If the block raises, nothing
    is left and an existing `path` keeps its content. The folder of `path` must exist.
    """
    path = epath.Path(path)
    if "://" in str(path):
        with tempfile.TemporaryDirectory(prefix=INCOMPLETE) as folder:
            temporary = epath.Path(folder) / path.name
            yield temporary
            temporary.copy(path, overwrite=True)
        return
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        with open(
            temporary, "rb"
        ) as written:  # otherwise a power failure could leave the name without data
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Yields a file open for writing, text in UTF-8 ("w") or bytes ("wb"); see `atomic_path`."""
    if mode not in ("w", "wb"):
        raise ValueError(f"mode is {mode!r}; expected 'w' or 'wb'")
    with (
        atomic_path(path) as temporary,
        open(temporary, mode.replace("w", "x"), encoding="utf-8" if mode == "w" else None) as file,
    ):
        yield file


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, replace: bool = False) -> Iterator[pathlib.Path]:
    """Yields an empty folder to fill, which is renamed to `path` at the end.

    If the block raises, nothing is left and an existing `path` keeps its content.

    Args:
      path: a local folder that does not exist or is empty; its parents are made.
      replace: a folder with content at `path` is replaced by the new one.

    Raises:
      UserError: `path` is not local, or exists already.
    """
    target = new_folder_path(path, replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    temporary = target.with_name(temporary_name(target.name))
    temporary.mkdir()
    try:
        yield temporary
        rename_folder(temporary, target, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_folder_path(path: str | os.PathLike, replace: bool = False) -> pathlib.Path:
    """Returns the absolute path of a folder that is to be made; see `atomic_folder`.

    Raises:
      UserError: `path` is not local, or exists already.
    """
    if "://" in str(path):
        raise UserError(f"{path} is not a local folder; choose a local path and copy it from there")
    target = pathlib.Path(os.path.abspath(path))
    is_folder = target.is_dir() and not target.is_symlink()
    if os.path.lexists(target) and not (is_folder and (replace or not any(target.iterdir()))):
        raise UserError(f"{path} exists already; choose another path")
    return target


def rename_folder(temporary: pathlib.Path, target: pathlib.Path, replace: bool = False) -> None:
    """Renames a folder to `target`, which is empty or missing unless `replace`.

    Raises:
      UserError: another process has made `target` in the meantime.
    """
    if not (replace and target.is_dir()):
        try:
            temporary.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise UserError(
                f"{target} was made by another process in the meantime; choose another path"
            ) from error
        return
    old = target.with_name(temporary_name(target.name))
    target.rename(old)  # a folder with content cannot be replaced by a rename
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_incomplete(folder: str | os.PathLike) -> None:
    """Removes what killed processes left unfinished in `folder`; call it when nobody writes there.

    Only names that `temporary_name` gives are touched; a link is removed, not followed.
    """
    for path in epath.Path(folder).glob(f"{INCOMPLETE}*"):
        _remove(path)


def _remove(path: epath.Path) -> None:
    """Removes a file, a folder, or a link but not what it points to."""
    if path.is_dir() and not os.path.islink(path):
        path.rmtree(missing_ok=True)
    else:
        path.unlink(missing_ok=True)


def remove_abandoned(path: str | os.PathLike) -> None:
    """Removes what processes of this machine that have ended left unfinished of `path`."""
    path = epath.Path(path)
    _remove_of_ended_processes(path.parent, re.escape(path.name[-48:]))


def remove_abandoned_in(folder: str | os.PathLike) -> None:
    """Removes what processes of this machine that have ended left unfinished in `folder`."""
    _remove_of_ended_processes(epath.Path(folder), ".*")


def _remove_of_ended_processes(folder: epath.Path, name: str) -> None:
    pattern = re.compile(rf"{re.escape(_temporary_prefix())}(\d+)-[0-9a-f]{{8}}-{name}", re.DOTALL)
    for path in folder.glob(f"{INCOMPLETE}*"):
        if (found := pattern.fullmatch(path.name)) and not is_running(found[1]):
            _remove(path)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON with `atomic_write`; see `nan_to_null`."""
    text = json.dumps(nan_to_null(value), indent=1, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Returns the value of a JSON file, local or `gs://`.

    Raises:
      UserError: the file is missing or cannot be read, or is not JSON.
    """
    check_scheme(path)
    check_regular(path)
    try:
        return json.loads(epath.Path(path).read_bytes())  # by its byte order mark, else UTF-8
    except FileNotFoundError:
        raise UserError(f"{os.fspath(path)} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{os.fspath(path)} is a folder; give a JSON file") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{os.fspath(path)} is not a JSON file: {reason}") from error


def nan_to_null(value: Any) -> Any:
    """Returns nested dicts, lists and tuples with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: nan_to_null(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def float32_number(value: float | np.floating) -> float | None:
    """Returns a float32 with the 7 digits that it has, for JSON; None for NaN and infinity."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def check_scheme(path: str | os.PathLike) -> None:
    """Raises a UserError for a URL that is not read or written here, as https:// or s3://."""
    name = os.fspath(path)
    scheme = name.partition("://")[0]
    if scheme != name and scheme != "gs" and not os.path.exists(name):
        raise UserError(
            f"{name} is neither a local nor a gs:// path; give one (to read it, download it first)"
        )


def is_special(path: str | os.PathLike) -> bool:
    """Returns whether it is a pipe, socket or device, reading which may never end."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def check_regular(path: str | os.PathLike) -> None:
    """Raises a UserError for a pipe, socket or device; a folder or a missing file is none."""
    if is_special(path):
        raise UserError(f"{os.fspath(path)} is a pipe, socket or device; give a regular file")


def absolute_path(path: str, folder: str | os.PathLike) -> str:
    """Returns `path`, which may be relative to `folder`, in full; a URL is returned as it is."""
    return path if "://" in path else os.fspath(epath.Path(folder) / path)


def relative_path(path: str, folder: str | os.PathLike) -> str:
    """Returns `path` relative to `folder`, so that both can be moved together.

    A URL is returned as it is. If `folder` is a URL, a local path is returned in full.
    """
    if "://" in path:
        return path
    path = os.path.abspath(path)
    return path if "://" in str(folder) else os.path.relpath(path, os.path.abspath(folder))
