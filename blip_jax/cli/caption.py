"""The verb `caption`: writes captions for image files."""

import argparse
from typing import TYPE_CHECKING

from blip_jax.cli.field_flags import add_field_flags, flags_in_messages, given_fields
from blip_jax.cli.image_files import ImageJob, image_parser
from blip_jax.cli.image_files import run as run_on_images
from blip_jax.decoding import Decoding
from blip_jax.decoding.config import SAMPLING_OPTIONS
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
    add_field_flags(parser, Decoding.from_options(), without_default=SAMPLING_OPTIONS)
    add = parser.add_argument
    add("--prompt", metavar="TEXT", help="what captions begin with [the model's]")
    add("--seed", type=int, default=0, metavar="N", help="of sampling [0]")
    add("--scores", action="store_true", help="also write the score of each caption")
    add("--sidecars", action="store_true", help="write captions to sidecar files, IMAGE.txt")
    return run_on_images("caption", parser.parse_args(argv), make_job)


def make_job(args: argparse.Namespace, paths: list[str], places: list[int]) -> ImageJob:
    """Returns what `caption` does with the images."""
    given = given_fields(args, Decoding)
    with flags_in_messages(given):
        decoding = Decoding.from_options(**given)

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
