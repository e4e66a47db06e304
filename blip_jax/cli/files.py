"""The verbs that work on image files: `caption`, `match` and `answer`.

What comes out is JSON, an object a line, in the order of the images that went in. B images a batch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import tqdm

from blip_jax.cli import Parser
from blip_jax.cli.paths import Rows, image_paths, read_lines, reason, sidecar
from blip_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from blip_jax.models import Model

# Options of `Model.caption`; those that are not given are left to its defaults.
SEARCHING = ("num_beams", "length_penalty")
DRAWING = ("top_p", "top_k", "temperature")
WRITING = (
    *SEARCHING, *DRAWING, "num_captions", "min_length", "max_length", "max_new_tokens",
    "repetition_penalty", "prompt", "seed",
)  # fmt: skip


class Job(NamedTuple):
    """What there is to do.

    Attributes:
      paths: of the images.
      work: takes the model, B images (uint8 [S, S, 3]) and the place of the first of them in
        `paths`; gives the JSON objects of each. Behind the last path come images to fill up.
      skipped: images that are left out, with the reason.
    """

    paths: list[str]
    work: Callable[[Model, list[np.ndarray], int], list[list[dict]]]
    skipped: list[tuple[str, str]] = []


def run(verb: str, argv: list[str]) -> int:
    """Runs "caption", "match" or "answer".

    Returns: the exit status: 0, or 1 if images were skipped, each of them named on stderr.

    Raises:
      UserError: bad arguments, a file that is missing or in the way, or a model of another kind.
      KeyboardInterrupt: names the number of images that are done.
    """
    args = _parse(verb, argv)
    paths = image_paths(args.paths, args.recursive)
    rows = Rows(args.out, verb == "caption" and args.sidecars)
    rows.check(paths, args.overwrite)
    job = args.job(args, paths)

    from blip_jax import models  # slow: whatever a person has to mend is said before

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
        for count, found, broken in _batches(model, job, args.batch_size):
            for path, why in broken:
                skip(path, why)
            rows.write(found)
            done += count
            bar.update(count)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped after {done} of {len(job.paths)} images") from None
    finally:
        bar.close()
        rows.close()
    if skipped:
        print(f"blip-jax {verb}: {skipped} of {total} images skipped", file=sys.stderr)
    return int(skipped > 0)


def _batches(model: Model, job: Job, batch_size: int):
    """Yields (images, rows, (path, reason) of those that do not decode) of each batch.

    All batches have one shape, and so one program: where an image is missing there is a black one.
    """
    import numpy as np

    from blip_jax.models.batching import loaded_batches, padded_batch_size

    side, size = model.image_size, padded_batch_size(len(job.paths), batch_size)
    black = np.zeros((side, side, 3), np.uint8)
    for place, loaded in loaded_batches(job.paths, side, size):
        whole = [isinstance(image, np.ndarray) for image in loaded]
        images = [image if fine else black for image, fine in zip(loaded, whole, strict=True)]
        found = [[]] * size
        if any(whole):
            found = job.work(model, images + [black] * (size - len(images)), place.start)
        rows, broken = [], []
        for path, image, fine, objects in zip(job.paths[place], loaded, whole, found):
            if fine:
                rows += [{"image": path, **fields} for fields in objects]
            else:
                broken.append((path, str(image)))
        yield len(images), rows, broken


# The command line.


def _parse(verb: str, argv: list[str]) -> argparse.Namespace:
    fill, description = VERBS[verb]
    parser = Parser(verb, description)
    parser.add_argument(
        "paths", metavar="PATH", nargs="+",
        help="image file, folder (its image files, sorted), or - for paths on stdin; or gs://",
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="workdir, .pth, Hugging Face folder or id")
    fill(parser)
    add = parser.add_argument_group("common").add_argument
    add("--recursive", action="store_true", help="look below folders, too")
    add("--out", metavar="FILE", help="JSONL file, in place of stdout")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--batch-size", type=_count, default=32, metavar="N", help="images a batch [32]")
    add("--image-size", type=_count, metavar="PIXELS", help="a side [the checkpoint's]")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    add("--tokenizer", help="folder or Hugging Face id [the checkpoint's]")
    add("--quirk", action="append", default=[], metavar="NAME", help="fault of the original, to "
        "repeat it; may be given again")  # fmt: skip
    return parser.parse_args(argv)


def _caption_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--num-beams", type=int, metavar="N", help="beam search; 1 is greedy [3]")
    add("--top-p", type=float, metavar="P", help="draw from the nucleus, in place of searching")
    add("--top-k", type=_count, metavar="K", help="draw from the K likeliest tokens")
    add("--temperature", type=float, metavar="T", help="of drawing [1]")
    add("--num-captions", type=_count, metavar="N", help="captions an image [1]")
    add("--min-length", type=int, metavar="N", help="tokens, [DEC] and prompt counted [5]")
    add("--max-length", type=int, metavar="N", help="[20]")
    add("--max-new-tokens", type=_count, metavar="N", help="behind the prompt; for --max-length")
    add("--repetition-penalty", type=float, metavar="X", help="[1; 1.1 when drawing]")
    add("--length-penalty", type=float, metavar="X", help="of beam search [1]")
    add("--prompt", metavar="TEXT", help="what captions begin with [the model's]")
    add("--seed", type=int, metavar="N", help="of drawing [0]")
    add("--scores", action="store_true", help="also the score of each caption")
    add("--sidecars", action="store_true", help="write each image's captions beside it, as .txt")
    parser.set_defaults(job=_caption)


def _match_options(parser: Parser) -> None:
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--text", action="append", help="may be given several times")
    either.add_argument(
        "--sidecars", action="store_true", help="the texts beside each image, .txt, one a line"
    )
    parser.set_defaults(job=_match)


def _answer_options(parser: Parser) -> None:
    parser.add_argument("--question", required=True, metavar="TEXT")
    parser.add_argument("--candidates", metavar="FILE", help="answers to choose from, one a line")
    parser.add_argument("--k", type=_count, help="candidates that are judged in full [128]")
    parser.set_defaults(job=_answer)


VERBS = {
    "caption": (_caption_options, "Writes captions for image files."),
    "match": (_match_options, "P(match) and cosine of texts with image files."),
    "answer": (_answer_options, "Answers a question about each image file."),
}


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


# The work.


def _caption(args: argparse.Namespace, paths: list[str]) -> Job:
    options = {name: getattr(args, name) for name in WRITING if getattr(args, name) is not None}
    drawn = "top_p" in options or "top_k" in options
    for name in SEARCHING if drawn else ("temperature",):
        if name in options:
            flag = f"--{name.replace('_', '-')}"
            other = "searching; not with" if drawn else "drawing; give"
            raise UserError(f"{flag} is of {other} --top-p or --top-k")

    def work(model: Model, images: list, first: int) -> list[list[dict]]:
        found = model.caption(
            images, batch_size=len(images), first=first, return_scores=True, **options
        )
        return [[fields(captions)] for captions in found]

    def fields(captions) -> dict:
        if args.num_captions in (None, 1):
            found = {"caption": captions.text, "score": _number(captions.score)}
        else:
            found = {
                "captions": [caption.text for caption in captions],
                "scores": [_number(caption.score) for caption in captions],
            }
        return found if args.scores else {name: found[name] for name in list(found)[:1]}

    return Job(paths, work)


def _match(args: argparse.Namespace, paths: list[str]) -> Job:
    skipped = []
    if args.sidecars:
        with ThreadPoolExecutor(16) as pool:  # they may be far away
            texts = dict(zip(paths, pool.map(_sidecar_texts, paths)))
        skipped = [(path, texts[path]) for path in paths if isinstance(texts[path], str)]
        paths = [path for path in paths if not isinstance(texts[path], str)]
        if not paths:
            raise UserError(f"no image has a text beside it: {skipped[0][1]}")
    elif not all(text.strip() for text in args.text):
        raise UserError("--text is empty")
    else:
        texts = dict.fromkeys(paths, args.text)

    def work(model: Model, images: list, first: int) -> list[list[dict]]:
        rows = [texts[path] for path in paths[first : first + len(images)]]
        rows += rows[-1:] * (len(images) - len(rows))
        width = max(map(len, rows))
        if args.sidecars:
            width = 1 << (width - 1).bit_length()  # few shapes, few programs
        nested = [row + row[-1:] * (width - len(row)) for row in rows]
        found = model.match(images, nested, batch_size=len(images))
        return [
            [
                {"text": text, "probability": _number(p), "cosine": _number(c)}
                for text, p, c in zip(*columns)
            ]
            for columns in zip(rows, found.probability, found.cosine)
        ]

    return Job(paths, work, skipped)


def _sidecar_texts(image: str) -> list[str] | str:
    """The texts beside an image, or why there are none."""
    try:
        return read_lines(sidecar(image)) or f"{sidecar(image)} is empty"
    except OSError as error:
        return f"{sidecar(image)} cannot be read ({reason(error)})"


def _answer(args: argparse.Namespace, paths: list[str]) -> Job:
    options = {} if args.k is None else {"k": args.k}
    if not args.question.strip():
        raise UserError("--question is empty")
    if args.candidates:
        try:
            options["candidates"] = list(dict.fromkeys(read_lines(args.candidates)))
        except OSError as error:
            raise UserError(f"--candidates {args.candidates}: {reason(error)}") from error
        if not options["candidates"]:
            raise UserError(f"--candidates {args.candidates} holds no answer: give one a line")
    elif options:
        raise UserError("--k is of choosing; give --candidates")

    def work(model: Model, images: list, first: int) -> list[list[dict]]:
        found = model.answer(
            images, [args.question] * len(images), batch_size=len(images), return_scores=True,
            **options,
        )  # fmt: skip
        return [
            [{"question": args.question, "answer": answer, "score": _number(score)}]
            for answer, score in found
        ]

    return Job(paths, work)


def _number(value: float) -> float | None:
    """A float32 in as many digits as it has; JSON has no NaN and no infinities."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
