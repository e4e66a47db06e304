"""The verb `caption`: writes captions for image files."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from blip_jax.cli.image_files import ImageJob, image_parser
from blip_jax.cli.image_files import run as run_on_images
from blip_jax.decoding import Decoding
from blip_jax.decoding.config import SAMPLING_OPTIONS
from blip_jax.runtime.config import field_help, field_types
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import float32_number

if TYPE_CHECKING:
    from blip_jax.models import Model


def run(argv: list[str]) -> int:
    """Runs the verb `caption`: captions images; see image_files.run."""
    parser = image_parser(
        "caption",
        "Writes captions for image files: by beam search, or with --top-p, --top-k or "
        "--temperature by sampling.",
    )
    types, defaults = field_types(Decoding), Decoding.from_options()
    for field in dataclasses.fields(Decoding):
        flag, kind = f"--{field.name.replace('_', '-')}", types[field.name]
        default = "" if field.name in SAMPLING_OPTIONS else f" [{getattr(defaults, field.name)}]"
        text = (field_help(Decoding, field.name) + default).replace("%", "%%")
        if kind is bool:
            parser.add_argument(flag, action="store_true", default=None, help=text)
        elif kind in (int, float):
            parser.add_argument(flag, type=kind, metavar="N" if kind is int else "X", help=text)
        else:
            parser.add_argument(flag, choices=kind.__args__, help=text)
    add = parser.add_argument
    add("--prompt", metavar="TEXT", help="what captions begin with [the model's]")
    add("--seed", type=int, default=0, metavar="N", help="of sampling [0]")
    add("--scores", action="store_true", help="also write the score of each caption")
    add("--sidecars", action="store_true", help="write captions to sidecar files, IMAGE.txt")
    return run_on_images("caption", parser.parse_args(argv), make_job)


def make_job(args: argparse.Namespace, paths: list[str], places: list[int]) -> ImageJob:
    """Returns what `caption` does with the images."""
    names = [field.name for field in dataclasses.fields(Decoding)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    try:
        decoding = Decoding.from_options(**given)
    except UserError as error:  # for error messages with the names of the command line
        words = str(error).split(" ")
        named = [f"--{w.replace('_', '-')}" if w in given else w for w in words]
        raise UserError(" ".join(named)) from error

    def work(model: "Model", images: list, start: int) -> list[list[dict]]:
        at = places[start : start + len(images)]
        at += range(at[-1] + 1, at[-1] + 1 + len(images) - len(at))
        is_range = at[-1] - at[0] == len(at) - 1
        rows = model.captions(
            images, decoding, prompt=args.prompt, seed=args.seed, batch_size=len(images),
            start_index=at[0] if is_range else at,
        )  # fmt: skip
        return [[fields(captions)] for captions in rows]

    def fields(captions) -> dict:
        texts = [caption.text for caption in captions]
        scores = [float32_number(caption.score) for caption in captions]
        if decoding.num_captions == 1:
            row = {"caption": texts[0], "score": scores[0]}
        else:
            row = {"captions": texts, "scores": scores}
        return row if args.scores else {name: row[name] for name in list(row)[:1]}

    return ImageJob(paths, work)
