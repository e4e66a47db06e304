"""The verb `answer`: JSON, an object a line, in the order of the images."""

import argparse

from blip_jax.cli import image_files
from blip_jax.cli.image_files import Job, count, read_lines, reason
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import float32_number


def run(argv: list[str]) -> int:
    parser = image_files.parser("answer", "Answers a question about each image file.")
    parser.add_argument("--question", required=True, metavar="TEXT")
    parser.add_argument("--candidates", metavar="FILE", help="answers to choose from, one a line")
    parser.add_argument("--k", type=count, help="candidates that are scored in full [128]")
    return image_files.run("answer", parser.parse_args(argv), job)


def job(args: argparse.Namespace, paths: list[str]) -> Job:
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
        raise UserError("--k needs --candidates")

    def work(model, images: list, first: int) -> list[list[dict]]:
        questions = [args.question] * len(images)
        found = model.answer(images, questions, batch_size=len(images), **options)
        return [[fields(answer)] for answer in found]

    def fields(answer) -> dict:
        score = float32_number(answer.score)
        return {"question": args.question, "answer": answer.text, "score": score}

    return Job(paths, work)
