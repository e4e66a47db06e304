"""The verb `caption`: JSON, an object a line, in the order of the images."""

import argparse
import re

from blip_jax.cli import image_files
from blip_jax.cli.image_files import Job, count
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import float32_number

# Options of `Model.captions`; those that are not given keep its defaults.
OPTIONS = (
    "num_beams", "length_penalty", "top_p", "top_k", "temperature", "num_captions", "min_length",
    "max_length", "max_new_tokens", "repetition_penalty",
)  # fmt: skip


def run(argv: list[str]) -> int:
    parser = image_files.parser("caption", "Writes captions for image files.")
    add = parser.add_argument
    add("--num-beams", type=int, metavar="N", help="beam search; 1 is greedy [3]")
    add("--top-p", type=float, metavar="P", help="sample from the nucleus, in place of searching")
    add("--top-k", type=count, metavar="K", help="sample from the K likeliest tokens")
    add("--temperature", type=float, metavar="T", help="sample; divides the logits [1]")
    add("--num-captions", type=count, metavar="N", help="captions an image [1]")
    add("--min-length", type=int, metavar="N", help="tokens, [DEC] and prompt counted [5]")
    add("--max-length", type=int, metavar="N", help="tokens, [DEC] and prompt counted [20]")
    add("--max-new-tokens", type=count, metavar="N", help="after the prompt; for --max-length")
    add("--repetition-penalty", type=float, metavar="X", help="[1; 1.1 when sampling]")
    add("--length-penalty", type=float, metavar="X", help="of beam search [1]")
    add("--prompt", metavar="TEXT", help="what captions begin with [the model's]")
    add("--seed", type=int, default=0, metavar="N", help="of sampling [0]")
    add("--scores", action="store_true", help="also the score of each caption")
    add("--sidecars", action="store_true", help="write each image's captions to a .txt file, too")
    args = parser.parse_args(argv)
    return image_files.run("caption", args, job, args.sidecars)


def job(args: argparse.Namespace, paths: list[str]) -> Job:
    """Raises a UserError if options do not go together, by their names on the command line."""
    from blip_jax.decoding import Decoding

    try:
        decoding = Decoding.from_options(**{name: getattr(args, name) for name in OPTIONS})
    except UserError as error:
        raise UserError(re.sub("|".join(OPTIONS), flag, str(error))) from error

    def work(model, images: list, first: int) -> list[list[dict]]:
        found = model.captions(
            images, decoding, prompt=args.prompt, seed=args.seed, batch_size=len(images),
            start_index=first,
        )  # fmt: skip
        return [[fields(captions)] for captions in found]

    def fields(captions: list) -> dict:
        texts = [caption.text for caption in captions]
        scores = [float32_number(caption.score) for caption in captions]
        if args.num_captions in (None, 1):
            found = {"caption": texts[0], "score": scores[0]}
        else:
            found = {"captions": texts, "scores": scores}
        return found if args.scores else {name: found[name] for name in list(found)[:1]}

    return Job(paths, work)


def flag(match: re.Match) -> str:
    return f"--{match[0].replace('_', '-')}"
