"""What the verbs on image files write: JSON lines on stdout or in a file, and sidecar files.

A file of rows grows by whole lines. Until it is finished a file `FILE.unfinished` beside it holds
the settings, by which the same command resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tqdm
from etils import epath

from blip_jax.cli.exit_status import discard_stdout
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import (
    check_scheme,
    is_special,
    remove_abandoned_in,
    temporary_name,
    write_json,
)
from blip_jax.runtime.lock import file_lock
from blip_jax.runtime.terminal import json_escaped

UNFINISHED = ".unfinished"


def sidecar(image: str) -> epath.Path:
    """Returns the path of an image's texts: its name with .txt, a text a line."""
    return epath.Path(image).with_suffix(".txt")


def reason(error: OSError) -> str:
    """Returns what happened, in a few words."""
    return (error.strerror or type(error).__name__).lower()


@contextlib.contextmanager
def named_errors(path: Any) -> Iterator[None]:
    """Turns an OSError of writing into a UserError that names the file."""
    try:
        yield
    except BrokenPipeError:  # the program that reads our output has ended
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written ({reason(error)})") from error


class Rows(NamedTuple):
    """The rows of an existing file: their objects, and the length of their lines in bytes."""

    rows: list[dict]
    size: int


class ResultWriter:
    """Writes JSON lines to a file or stdout, and captions to sidecar files.

    The file is opened with its first row: what fails before that leaves no empty file.
    """

    def __init__(self, path: str | None, sidecars: bool, verb: str):
        """Takes the JSON lines file's `path`; None: stdout, or no JSON lines with `sidecars`."""
        if path:
            check_scheme(path)
        self._path = path and epath.Path(path)
        self._marker = path and epath.Path(path + UNFINISHED)
        self._file: Any = None
        self._kept: Rows | None = None  # rows that are there already
        self._settings: dict[str, Any] = {}
        self._sidecars, self._verb = sidecars, verb

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lets no other process write to the file of rows, unless it is a pipe or device.

        Raises:
          UserError: another process writes there, or the file cannot be there.
        """
        self._check_out()
        with contextlib.ExitStack() as stack:
            if self._path and not is_special(self._path):
                stack.enter_context(file_lock(self._path, self._verb))
            yield

    def check(self, images: Sequence[str], overwrite: bool, skip_existing: bool) -> set[str]:
        """Returns the images that are done already.

        Those are the ones of an unfinished file, and with `skip_existing` all that have rows or a
        sidecar file.

        Raises:
          UserError: a file that is to be written exists, or has no path of its own.
        """
        sidecars = {}
        for image in images if self._sidecars else ():
            other = sidecars.setdefault(sidecar(image), image)
            if other != image:
                raise UserError(f"the captions of {other} and {image} would share a sidecar file")
            if os.fspath(sidecar(image)) == os.fspath(epath.Path(image)):
                raise UserError(f"the captions of {image} would replace it; rename the image")
        for folder in {path.parent for path in sidecars if "://" not in str(path)}:
            remove_abandoned_in(folder)
        for path in (*sidecars, *([self._path] if self._path else [])):
            if os.path.islink(path) and not os.path.exists(path):
                raise UserError(f"{path} is a link to a file that does not exist; remove the link")
        if overwrite:
            return set()
        done = self._rows_done(skip_existing)
        taken = {path: image for path, image in sidecars.items() if path.exists()}
        if skip_existing:
            return done | set(taken.values())
        taken = [path for path, image in taken.items() if image not in done]
        if taken:
            more = f" (and {len(taken) - 1} more)" if taken[1:] else ""
            raise UserError(
                f"{taken[0]} exists already{more}; --overwrite replaces and --skip-existing keeps "
                "such files"
            )
        return done

    def _check_out(self) -> None:
        if not self._path:
            return
        if self._path.is_dir():
            raise UserError(f"--out {self._path} is a folder; give a file")
        if "://" not in str(self._path) and not self._path.parent.is_dir():
            raise UserError(f"--out {self._path}: the folder {self._path.parent} does not exist")

    def _rows_done(self, skip_existing: bool) -> set[str]:
        """Returns the images that the file has rows of."""
        if not self._path or not self._path.exists():
            return set()
        try:
            self._kept = read_rows(self._path.read_bytes(), self._verb)
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"{self._path} exists already; --overwrite replaces it") from error
        if not (skip_existing or self._marker.exists()):
            raise UserError(
                f"{self._path} exists already; --overwrite replaces it, --skip-existing keeps its "
                "rows and adds those of other images"
            )
        return {row["image"] for row in self._kept.rows}

    def begin(self, settings: dict[str, Any]) -> None:
        """Checks that rows to be kept were written with these settings (JSON values).

        Raises:
          UserError: the unfinished file was begun with others.
        """
        self._settings = settings
        if self._kept is None:
            return
        if self._marker.exists():
            try:
                before = json.loads(self._marker.read_text())
            except ValueError:
                before = {}
            before = before if isinstance(before, dict) else {}
            names = before.keys() | settings.keys()
            other = sorted(n for n in names if before.get(n) != settings.get(n))
            if other:
                raise UserError(
                    f"{self._path} was begun with other settings ({', '.join(other)}); choose "
                    "another --out, or --overwrite it"
                )
        if self._sidecars:  # the run was stopped between a row and its sidecar file
            self._write_sidecars([r for r in self._kept.rows if not sidecar(r["image"]).exists()])

    def write(self, rows: list[dict]) -> None:
        """Writes the rows of a batch, and flushes them.

        Raises:
          UserError: a file cannot be written.
        """
        if not self._path and not self._sidecars:
            try:
                with named_errors("stdout"):
                    for row in rows:
                        tqdm.tqdm.write(_line(row), file=sys.stdout)
                    sys.stdout.flush()
            except UserError:
                discard_stdout()
                raise
            return
        if self._path and rows:
            with named_errors(self._path):
                self._append("".join(f"{_line(row)}\n" for row in rows).encode())
        if self._sidecars:
            self._write_sidecars(rows)

    def _append(self, data: bytes) -> None:
        """Adds whole lines: if only a part of them can be written, none is left."""
        special = is_special(self._path)  # a pipe or device, which cannot be resumed
        if not self._file:
            if not special:
                write_json(self._marker, self._settings)
            self._file = self._open()
        if special or "://" in str(self._path):
            self._file.write(data)
            return
        start, view = self._file.seek(0, os.SEEK_END), memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise

    def _open(self) -> Any:
        if "://" in str(self._path):  # objects cannot be appended to
            old = self._path.read_bytes()[: self._kept.size] if self._kept else b""
            file = self._path.open("wb")
            file.write(old)
            return file
        if not self._kept:
            return open(self._path, "wb", buffering=0)
        file = open(self._path, "r+b", buffering=0)
        file.truncate(self._kept.size)
        return file

    def _write_sidecars(self, rows: list[dict]) -> None:
        for row in rows:
            path = sidecar(row["image"])
            captions = row["captions"] if "captions" in row else [row["caption"]]
            data = "".join(f"{text}\n" for text in captions).encode()
            with named_errors(path):
                if "://" in str(path):
                    path.write_bytes(data)
                    continue
                temporary = path.with_name(temporary_name(path.name))
                try:
                    temporary.write_bytes(data)
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)

    def close(self, finished: bool) -> None:
        """Closes the file; `finished`: all images are done, so it will not be resumed."""
        with named_errors(self._path):
            if self._file:
                self._file.close()
            if finished and self._path and self._marker.exists():
                if self._kept and not self._file and "://" not in str(self._path):
                    os.truncate(self._path, self._kept.size)
                self._marker.unlink()


def read_rows(data: bytes, verb: str) -> Rows:
    """Returns the rows of a file of this verb.

    A last line without an end was cut short: it and the other rows of its image do not count.

    Raises:
      ValueError: a line is not a row.
    """
    size = data.rfind(b"\n") + 1
    lines, cut = data[:size].splitlines(keepends=True), data[size:]
    rows = [json.loads(line) for line in lines]
    fields = {"caption": ("caption", "captions"), "match": ("text",), "answer": ("answer",)}[verb]
    for row in rows:
        known = isinstance(row, dict) and isinstance(row.get("image"), str)
        if not known or not any(name in row for name in fields):
            raise ValueError("not a row")
    last = rows[-1]["image"] if rows and cut and verb == "match" else None
    while rows and rows[-1]["image"] == last:
        size -= len(lines[len(rows) - 1])
        rows.pop()
    return Rows(rows, size)


def _line(row: dict) -> str:
    # A file's name may contain bytes that are not valid text; they become JSON escapes.
    text = json_escaped(json.dumps(row, ensure_ascii=False))
    return text.encode("utf-8", "backslashreplace").decode()
