"""Image files in, JSON lines and side-cars out; local or gs://.

A side-car is the file of an image's texts: beside it, of the same name but .txt, a text a line.
"""

import json
import os
import sys
from collections.abc import Iterator

import tqdm
from etils import epath

from blip_jax.runtime.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2")


def image_paths(given: list[str], recursive: bool) -> list[str]:
    """The images of files, folders and, for `-`, of lines on stdin, in this order.

    Raises:
      UserError: one does not exist, or there is no image in it.
    """
    paths = []
    for path in given:
        if path != "-":
            paths += _images(path, recursive)
            continue
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        if not any(lines):
            raise UserError("no path came on stdin")
        for line in filter(None, lines):
            paths += _images(line, recursive)
    return paths


def _images(path: str, recursive: bool) -> list[str]:
    place = epath.Path(path)
    if not place.is_dir():
        if not place.exists():
            raise UserError(f"{path} does not exist")
        return [path]
    found = sorted(_below(place, recursive))
    if not found:
        more = "" if recursive else "; --recursive looks below it"
        raise UserError(f"folder {path} holds no image file ({', '.join(SUFFIXES)}){more}")
    return found


def _below(folder: epath.Path, recursive: bool) -> Iterator[str]:
    for child in folder.iterdir():
        if child.name.startswith("."):  # among them macOS's own, of the same suffix
            continue
        if child.suffix.lower() in SUFFIXES:
            yield os.fspath(child)
        elif recursive and not os.path.islink(child) and child.is_dir():  # links may be circles
            yield from _below(child, True)


def sidecar(image: str) -> epath.Path:
    """Where the texts of an image are."""
    return epath.Path(image).with_suffix(".txt")


def read_lines(path: str | epath.Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
      OSError: it cannot be read.
    """
    text = epath.Path(path).read_bytes().decode("utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def reason(error: OSError) -> str:
    """What happened, in a few words."""
    return (error.strerror or type(error).__name__).lower()


class Rows:
    """Writes JSON lines to a file or stdout, and captions to side-cars.

    The file is opened with its first row: what fails before leaves no empty one in the way.
    """

    def __init__(self, path: str | None, sidecars: bool):
        """`path`: of the JSON lines; None: stdout, or nowhere with `sidecars`."""
        self._path = path
        self._file = None
        self._sidecars = sidecars

    def check(self, images: list[str], overwrite: bool) -> None:
        """Raises a UserError unless all that will be written has a place, and its own."""
        places = {}
        for image in images if self._sidecars else ():
            other = places.setdefault(sidecar(image), image)
            if other != image:
                raise UserError(f"the captions of {other} and {image} would share a side-car")
        out = [epath.Path(self._path)] if self._path else []
        if out and out[0].is_dir():
            raise UserError(f"--out {self._path} is a folder: name a file")
        if out and "://" not in self._path and not out[0].parent.is_dir():
            raise UserError(f"--out {self._path}: the folder {out[0].parent} does not exist")
        taken = [] if overwrite else [place for place in (*out, *places) if place.exists()]
        if taken:
            more = f" (and {len(taken) - 1} more)" if taken[1:] else ""
            raise UserError(f"{taken[0]} exists already{more}: give --overwrite to replace it")

    def write(self, rows: list[dict]) -> None:
        """Writes the rows of a batch, and flushes them.

        Raises:
          UserError: a file cannot be written.
        """
        if not self._path and not self._sidecars:
            for row in rows:
                tqdm.tqdm.write(_line(row), file=sys.stdout)
            sys.stdout.flush()
            return
        path = self._path
        try:
            if path and rows and not self._file:
                self._file = epath.Path(path).open("w", encoding="utf-8")
            if self._file:
                self._file.writelines(f"{_line(row)}\n" for row in rows)
                self._file.flush()
            for row in rows if self._sidecars else ():
                path = sidecar(row["image"])
                captions = row["captions"] if "captions" in row else [row["caption"]]
                path.write_bytes("".join(f"{text}\n" for text in captions).encode())
        except OSError as error:
            raise UserError(f"{path} cannot be written ({reason(error)})") from error

    def close(self) -> None:
        if self._file:
            self._file.close()


def _line(row: dict) -> str:
    # A file's name need not be text; bytes that are none become JSON's own escapes.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
