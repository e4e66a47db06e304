"""What the verbs on image files share: images in, JSON lines and sidecar files out.

A sidecar file holds the texts of an image: its name with .txt, a text a line. Rows are JSON
objects in the order of the images. Paths are local or gs://. B images a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import tqdm
from etils import epath

from blip_jax.cli import Parser
from blip_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from blip_jax.models import Model

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2")


def image_paths(given: list[str], recursive: bool) -> list[str]:
    """Returns the images of files, folders and, for `-`, of lines on stdin, in this order.

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
            raise UserError("stdin has no path")
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
        more = "" if recursive else "; --recursive also looks into its subfolders"
        raise UserError(f"folder {path} holds no image file ({', '.join(SUFFIXES)}){more}")
    return found


def _below(folder: epath.Path, recursive: bool) -> Iterator[str]:
    for child in folder.iterdir():
        if child.name.startswith("."):  # hidden, e.g. macOS's ._NAME.jpg
            continue
        if child.suffix.lower() in SUFFIXES:
            yield os.fspath(child)
        elif (
            recursive and not os.path.islink(child) and child.is_dir()
        ):  # symbolic links may be cyclic
            yield from _below(child, True)


def sidecar(image: str) -> epath.Path:
    """Returns the path of an image's texts: its name with .txt, a text a line."""
    return epath.Path(image).with_suffix(".txt")


def read_lines(path: str | epath.Path) -> list[str]:
    """Returns the lines of a file that are not blank.

    Raises:
      OSError: it cannot be read.
    """
    text = epath.Path(path).read_bytes().decode("utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def reason(error: OSError) -> str:
    """Returns what happened, in a few words."""
    return (error.strerror or type(error).__name__).lower()


class ResultWriter:
    """Writes JSON lines to a file or stdout, and captions to sidecar files.

    The file is opened with its first row: what fails before that leaves no empty file.
    """

    def __init__(self, path: str | None, sidecars: bool):
        """Takes the JSON lines file's `path`; None: stdout, or no JSON lines with `sidecars`."""
        self._path = path
        self._file = None
        self._sidecars = sidecars

    def check(self, images: list[str], overwrite: bool) -> None:
        """Raises a UserError unless every file to be written has a path of its own."""
        sidecars = {}
        for image in images if self._sidecars else ():
            other = sidecars.setdefault(sidecar(image), image)
            if other != image:
                raise UserError(f"the captions of {other} and {image} would share a sidecar file")
        out = [epath.Path(self._path)] if self._path else []
        if out and out[0].is_dir():
            raise UserError(f"--out {self._path} is a folder; give a file")
        if out and "://" not in self._path and not out[0].parent.is_dir():
            raise UserError(f"--out {self._path}: the folder {out[0].parent} does not exist")
        taken = [] if overwrite else [path for path in (*out, *sidecars) if path.exists()]
        if taken:
            more = f" (and {len(taken) - 1} more)" if taken[1:] else ""
            raise UserError(f"{taken[0]} exists already{more}; --overwrite replaces it")

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
    # A file's name may contain bytes that are not valid text; they become JSON escapes.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


class ImageJob(NamedTuple):
    """What a verb does with images.

    Attributes:
      paths: of the images.
      work: takes the model, B images (uint8 [S, S, 3]) and the index of the first of them in
        `paths`; returns the JSON objects of each. After the last path the images are padding.
      skipped: images that are left out, with the reason.
    """

    paths: list[str]
    work: Callable[[Model, list[np.ndarray], int], list[list[dict]]]
    skipped: list[tuple[str, str]] = []


def run(
    verb: str, args: argparse.Namespace, make_job: Callable[[argparse.Namespace, list], ImageJob]
) -> int:
    """Runs "caption", "match" or "answer".

    Returns: the exit status: 0, or 1 if images were skipped, each of them named on stderr.

    Raises:
      UserError: bad arguments, a file that is missing or exists already, or a model that cannot.
      KeyboardInterrupt: says how many images are done.
    """
    paths = image_paths(args.paths, args.recursive)
    writer = ResultWriter(args.out, verb == "caption" and args.sidecars)
    writer.check(paths, args.overwrite)
    job = make_job(args, paths)

    from blip_jax import models  # slow, so user errors are reported first

    model = models.load(
        args.model, image_size=args.image_size, dtype=args.dtype, tokenizer=args.tokenizer,
        quirks=args.quirk,
    )  # fmt: skip
    model.require(verb)
    skipped, done, total = 0, 0, len(paths)
    bar = tqdm.tqdm(total=total, desc=verb, unit="image", disable=None)

    def skip(path: str, why: str) -> None:
        nonlocal skipped
        skipped += 1
        tqdm.tqdm.write(f"blip-jax {verb}: {path}: {why}", file=sys.stderr)

    try:
        for path, why in job.skipped:
            skip(path, why)
        for count, rows, undecodable in _batches(model, job, args.batch_size):
            for path, why in undecodable:
                skip(path, why)
            writer.write(rows)
            done += count
            bar.update(count)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped after {done} of {len(job.paths)} images") from None
    finally:
        bar.close()
        writer.close()
    if skipped:
        print(f"blip-jax {verb}: {skipped} of {total} images skipped", file=sys.stderr)
    return int(skipped > 0)


def _batches(model: Model, job: ImageJob, batch_size: int):
    """Yields (images, rows, (path, reason) of those that cannot be decoded) of each batch.

    All batches have one shape, and so one program: in place of a missing image is a black one.
    """
    import numpy as np

    from blip_jax.models.batching import loaded_batches, padded_batch_size

    side, size = model.image_size, padded_batch_size(len(job.paths), batch_size)
    black = np.zeros((side, side, 3), np.uint8)
    for which, loaded in loaded_batches(job.paths, side, size):
        decoded = [isinstance(image, np.ndarray) for image in loaded]
        images = [image if good else black for image, good in zip(loaded, decoded, strict=True)]
        found = [[]] * size
        if any(decoded):
            found = job.work(model, images + [black] * (size - len(images)), which.start)
        rows, undecodable = [], []
        for path, image, good, objects in zip(job.paths[which], loaded, decoded, found):
            if good:
                rows += [{"image": path, **fields} for fields in objects]
            else:
                undecodable.append((path, str(image)))
        yield len(images), rows, undecodable


def image_parser(verb: str, description: str) -> Parser:
    """Returns a parser of the arguments that these verbs share."""
    parser = Parser(verb, description)
    parser.add_argument(
        "paths", metavar="PATH", nargs="+",
        help="image file, folder (its image files, sorted), or - for paths on stdin; or gs://",
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="workdir, .pth, Hugging Face folder or id")
    add = parser.add_argument_group("common").add_argument
    add("--recursive", action="store_true", help="also look into subfolders")
    add("--out", metavar="FILE", help="JSONL file, instead of stdout")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--batch-size", type=positive_int, default=32, metavar="N", help="images a batch [32]")
    add("--image-size", type=positive_int, metavar="PIXELS", help="a side [the checkpoint's]")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    add("--tokenizer", help="folder or Hugging Face id [the checkpoint's]")
    add("--quirk", action="append", default=[], metavar="NAME", help="fault of the original to "
        "reproduce; may be given again")  # fmt: skip
    return parser


def positive_int(text: str) -> int:
    """Returns a whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value
