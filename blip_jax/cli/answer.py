"""The verb `answer`: answers a question about image files."""

import argparse
from typing import TYPE_CHECKING

from blip_jax.cli.image_files import ImageJob, image_parser, positive_int, read_lines
from blip_jax.cli.image_files import run as run_on_images
from blip_jax.cli.results import reason
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme, float32_number

if TYPE_CHECKING:
    from blip_jax.models import Model


def run(argv: list[str]) -> int:
    """Runs the verb `answer`: answers a question about images; see image_files.run."""
    parser = image_parser("answer", "Answers a question about each image file.")
    add = parser.add_argument
    add("--question", required=True, metavar="TEXT")
    add("--candidates", metavar="FILE", help="answers to choose from, one a line")
    add("--k", type=positive_int, help="candidates that are scored in full [128]")
    return run_on_images("answer", parser.parse_args(argv), make_job)


def make_job(args: argparse.Namespace, paths: list[str], places: list[int]) -> ImageJob:
    """Returns what `answer` does with the images."""
    options = {} if args.k is None else {"k": args.k}
    if not args.question.strip():
        raise UserError("--question is empty")
    if args.candidates:
        check_scheme(args.candidates)
        try:
            options["candidates"] = list(dict.fromkeys(read_lines(args.candidates)))
        except OSError as error:
            raise UserError(f"--candidates {args.candidates}: {reason(error)}") from error
        except UnicodeError as error:
            raise UserError(
                f"--candidates {args.candidates} is neither UTF-8 nor UTF-16 with a byte order "
                "mark; save it as UTF-8"
            ) from error
        if not options["candidates"]:
            raise UserError(f"--candidates {args.candidates} has no answer; give one per line")
        args.candidates = options["candidates"]  # they are what an unfinished file belongs to
    elif options:
        raise UserError("--k needs --candidates")

    def work(model: "Model", images: list, start: int) -> list[list[dict]]:
        answers = model.answer(images, args.question, batch_size=len(images), **options)
        return [
            [{"question": args.question, "answer": a.text, "score": float32_number(a.score)}]
            for a in answers
        ]

    return ImageJob(paths, work)
