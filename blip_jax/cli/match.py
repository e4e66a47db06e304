"""The verb `match`: scores texts against image files."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from blip_jax.cli.image_files import ImageJob, image_parser, read_lines
from blip_jax.cli.image_files import run as run_on_images
from blip_jax.cli.results import reason, sidecar
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import float32_number, is_special

if TYPE_CHECKING:
    from blip_jax.models import Model


def run(argv: list[str]) -> int:
    """Scores texts; see image_files.run."""
    parser = image_parser("match", "Writes P(match) and cosine of texts with image files.")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--text", action="append", help="may be given several times")
    either.add_argument(
        "--sidecars", action="store_true", help="texts from sidecar files, IMAGE.txt, one per line"
    )
    return run_on_images("match", parser.parse_args(argv), make_job)


def make_job(args: argparse.Namespace, paths: list[str], places: list[int]) -> ImageJob:
    """Returns what `match` does with the images."""
    skipped = []
    if args.sidecars:
        with ThreadPoolExecutor(16) as pool:  # files may be remote
            texts = dict(zip(paths, pool.map(_sidecar_texts, paths)))
        skipped = [(path, texts[path]) for path in paths if isinstance(texts[path], str)]
        paths = [path for path in paths if not isinstance(texts[path], str)]
    elif not all(text.strip() for text in args.text):
        raise UserError("--text is empty")
    else:
        texts = dict.fromkeys(paths, args.text)

    def work(model: "Model", images: list, start: int) -> list[list[dict]]:
        rows = [texts[path] for path in paths[start : start + len(images)]]
        rows += rows[-1:] * (len(images) - len(rows))
        width = max(map(len, rows))
        if args.sidecars:
            width = 1 << (width - 1).bit_length()  # few shapes, so that few programs are compiled
        nested = [row + row[-1:] * (width - len(row)) for row in rows]
        match = model.match(images, nested, batch_size=len(images))
        return [
            [
                {"text": text, "probability": float32_number(p), "cosine": float32_number(c)}
                for text, p, c in zip(*columns)
            ]
            for columns in zip(rows, match.probability, match.cosine)
        ]

    return ImageJob(paths, work, skipped)


def _sidecar_texts(image: str) -> list[str] | str:
    """Returns the texts of an image's sidecar file, or the reason why there are none."""
    path = sidecar(image)
    if is_special(path):
        return f"{path} is not a regular file"
    try:
        return read_lines(path) or f"{path} is empty"
    except OSError as error:
        return f"{path} cannot be read ({reason(error)})"
    except UnicodeError:
        return f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8"
