"""What the verbs on image files share: the images they read, and the run over these.

Rows are JSON objects in the order of the images. Paths are local or gs://. B images a batch.
"""

from __future__ import annotations

import argparse
import json
import mimetypes
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import tqdm
from etils import epath

from blip_jax.cli import Parser
from blip_jax.cli.results import ResultWriter, reason
from blip_jax.data.image_suffixes import IMAGE_SUFFIXES
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme
from blip_jax.runtime.numbers import is_digits
from blip_jax.runtime.terminal import print_note, printable

if TYPE_CHECKING:
    import numpy as np

    from blip_jax.models import Model

# Image files that mimetypes does not know.
RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".psd", ".exr", ".jxl", ".tga")
# Arguments that do not change what a row holds.
_NO_SETTINGS = (
    "paths", "recursive", "out", "overwrite", "skip_existing", "sidecars", "batch_size", "verbose",
    "debug",
)  # fmt: skip


def image_paths(given: list[str], recursive: bool) -> tuple[list[str], Counter[str]]:
    """Returns the images of files, folders and, for `-`, of lines on stdin, in this order.

    Also returns how many image files of folders have an ending that is not read, by ending.

    Raises:
      UserError: one does not exist, or there is no image in it.
    """
    paths: list[str] = []
    left_out: Counter[str] = Counter()
    for path in given:
        if path != "-":
            paths += _images(path, recursive, left_out)
            continue
        # PowerShell puts a byte order mark before what it pipes.
        lines = [line.rstrip("\r\n").removeprefix("\ufeff") for line in sys.stdin]
        if not any(lines):
            raise UserError("stdin has no path")
        for line in filter(None, lines):
            paths += _images(line, recursive, left_out)
    return paths, left_out


def _images(path: str, recursive: bool, left_out: Counter[str]) -> list[str]:
    check_scheme(path)
    place = epath.Path(path)
    try:
        if not place.is_dir():
            if not place.exists():
                raise UserError(f"{path} does not exist")
            return [path]
        found = sorted(_below(place, recursive, left_out))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    if not found:
        more = "" if recursive else "; --recursive also looks into its subfolders"
        raise UserError(f"folder {path} holds no image file ({', '.join(IMAGE_SUFFIXES)}){more}")
    return found


def _below(folder: epath.Path, recursive: bool, left_out: Counter[str]) -> Iterator[str]:
    for child in folder.iterdir():
        if child.name.startswith("."):  # hidden, e.g. macOS's ._NAME.jpg
            continue
        suffix = child.suffix.lower()
        kind = mimetypes.guess_type(child.name)[0] or ""
        if suffix in IMAGE_SUFFIXES:
            yield os.fspath(child)
        elif suffix in RAW or kind.startswith("image/"):
            left_out[suffix] += 1
        elif recursive and os.path.islink(child) and child.is_dir():  # may be cyclic
            print_note(f"link to a folder, passed over: {child}")
        elif recursive and child.is_dir():
            yield from _below(child, True, left_out)


def read_lines(path: str | epath.Path) -> list[str]:
    """Returns the lines of a text file that are not blank; only line ends part them.

    Raises:
      OSError: it cannot be read.
      UnicodeError: it is neither UTF-8 nor, with a byte order mark, UTF-16.
    """
    data = epath.Path(path).read_bytes()
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    if "\0" in text:
        raise UnicodeError("it is not text")
    return [line.strip() for line in text.split("\n") if line.strip()]


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
    verb: str,
    args: argparse.Namespace,
    make_job: Callable[[argparse.Namespace, list[str], list[int]], ImageJob],
) -> int:
    """Runs "caption", "match" or "answer".

    Args:
      make_job: of the arguments, the images to be done, and the place of each among all given.

    Returns: the exit status: 0, or 1 if images were skipped, each of them named on stderr.

    Raises:
      UserError: bad arguments, a file that is missing or exists already, or a model that cannot.
      KeyboardInterrupt: says how many images are done.
    """
    paths, left_out = image_paths(args.paths, args.recursive)

    def say(message: str) -> None:
        tqdm.tqdm.write(f"blip-jax {verb}: {printable(message)}", file=sys.stderr)

    if left_out:
        each = ", ".join(f"{n} {suffix}" for suffix, n in left_out.most_common())
        say(f"{left_out.total()} image files are left out, as these formats are not read: {each}")
    writer = ResultWriter(args.out, verb == "caption" and args.sidecars, verb)
    with writer.locked():
        return _run(verb, args, make_job, paths, writer, say)


def _run(
    verb: str,
    args: argparse.Namespace,
    make_job: Callable[[argparse.Namespace, list[str], list[int]], ImageJob],
    paths: list[str],
    writer: ResultWriter,
    say: Callable[[str], None],
) -> int:
    """Runs the verb on the images that are not done; see `run`."""
    finished = writer.check(paths, args.overwrite, args.skip_existing)
    places = [place for place, path in enumerate(paths) if path not in finished]
    already = f"{len(paths) - len(places)} of {len(paths)} images are done already"
    if not places:
        say(already)
        writer.close(True)
        return 0
    job = make_job(args, [paths[place] for place in places], places)
    if not job.paths:  # `match` finds no texts
        if not finished:
            raise UserError(f"no image has a sidecar file with texts: {job.skipped[0][1]}")
        say(already)
        for path, why in job.skipped:
            say(f"{path}: {why}")
        writer.close(True)
        return 1

    from blip_jax import models  # slow, so user errors are reported first

    model = models.load(
        args.model, image_size=args.image_size, dtype=args.dtype, tokenizer=args.tokenizer,
        quirks=args.quirk,
    )  # fmt: skip
    model.require(verb)
    if args.out:
        writer.begin(_settings(args, model))
    if len(places) < len(paths):
        say(already)
    skipped, done, total = 0, 0, len(places)
    bar = tqdm.tqdm(total=total, desc=verb, unit="image", disable=None)

    def skip(path: str, why: str) -> None:
        nonlocal skipped
        skipped += 1
        say(f"{path}: {why}")

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
        writer.close(done == len(job.paths))
    if skipped:
        say(f"{skipped} of {total} images skipped")
    return int(skipped > 0)


def _settings(args: argparse.Namespace, model: Model) -> dict:
    """Returns what the rows of an image depend on, as JSON: the arguments and the parameters."""
    import jax
    import numpy as np

    digest = 0
    for leaf in jax.tree.leaves(model.params):
        digest = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), digest)
    found = {name: value for name, value in vars(args).items() if name not in _NO_SETTINGS}
    return json.loads(json.dumps(found | {"model": f"{digest:08x}"}))


def _batches(model: Model, job: ImageJob, batch_size: int):
    """Yields (images, rows, (path, reason) of those that cannot be decoded) of each batch.

    All batches have one shape, and so one program: in place of a missing image is a black one.
    """
    import numpy as np

    from blip_jax.models.batching import loaded_batches, padded_batch_size

    side, size = model.image_size, padded_batch_size(len(job.paths), batch_size)
    upright = model.config.exif_orientation
    black = np.zeros((side, side, 3), np.uint8)
    for which, loaded in loaded_batches(job.paths, side, size, upright):
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
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--overwrite", action="store_true", help="replace files that exist")
    either.add_argument(
        "--skip-existing", action="store_true",
        help="keep files that exist, and pass over the images that they have results of",
    )  # fmt: skip
    add("--batch-size", type=positive_int, default=32, metavar="N", help="images a batch [32]")
    add("--image-size", type=positive_int, metavar="PIXELS", help="a side [the checkpoint's]")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    add("--tokenizer", help="folder or Hugging Face id [the checkpoint's]")
    add("--quirk", action="append", default=[], metavar="NAME", help="fault of the original to "
        "reproduce; may be given again")  # fmt: skip
    return parser


def positive_int(text: str) -> int:
    """Returns a whole number above 0, for argparse."""
    if not is_digits(text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)
