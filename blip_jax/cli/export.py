"""The verb `export`: what a mixture names, images and texts, as files for other programs."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from blip_jax.cli import Parser
from blip_jax.cli.paths import reason
from blip_jax.runtime.errors import UserError

FORMATS = {
    "jsonl": "data.jsonl, an image a line, and image files",
    "parquet": "an image a row, its bytes within; datasets.load_dataset reads it",
    "webdataset": "tars of KEY.jpg, KEY.txt (a text a line) and KEY.json",
    "blip": "the original's captions.json, a caption an entry, and image files",
}
CARD = ("README.md", "statistics.json")  # what `assemble` left beside the mixture


def parser() -> argparse.ArgumentParser:
    formats = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    found = Parser(
        "export",
        "Writes out what a mixture (of `assemble` or `capfilt`) names: images, their texts and "
        "scores. `blip-jax prepare` reads all of these formats.",
    )
    found.add_argument("mixture", metavar="MIXTURE.json")
    found.add_argument("out", metavar="OUT", help="folder to make; local")
    found.add_argument("--to", choices=FORMATS, required=True, help=formats)
    found.add_argument(
        "--images", choices=("files", "bytes", "none"),
        help="where images go: beside the list, into it, or nowhere (key and URL stay) "
        "[bytes for parquet and webdataset, else files]",
    )  # fmt: skip
    found.add_argument(
        "--component",
        action="append",
        help="only this component of the mixture; may be given again [all]",
    )
    found.add_argument(
        "--shard", type=int, default=10_000, metavar="N", help="images a tar or Parquet file"
    )
    return found


def run(argv: list[str]) -> int:
    """Writes the folder, whole or not at all, and prints what is in it.

    Returns: the exit status: 0, or 1 if images were left out, for they hold none.

    Raises:
      UserError: the mixture is not whole, OUT is taken, or these options do not go together.
    """
    args = parser().parse_args(argv)

    import tqdm

    from blip_jax.capfilt import export
    from blip_jax.capfilt.writers import FORMATS as WRITERS
    from blip_jax.data.mixture import load_mixture

    make = WRITERS[args.to]
    place = args.images or make.PLACES[0]
    if place not in make.PLACES:
        known = " or ".join(make.PLACES)
        raise UserError(f"--to {args.to} takes --images {known}, not {place}")
    if args.shard < 1:
        raise UserError(f"--shard is {args.shard}; it must be 1 or more")
    components = load_mixture(args.mixture)
    if unknown := sorted(set(args.component or ()) - {entry.name for entry in components}):
        names = ", ".join(entry.name for entry in components)
        raise UserError(f"{args.mixture} has no component {unknown[0]!r}; it has {names}")
    components = [
        entry for entry in components if not args.component or entry.name in args.component
    ]
    with unfinished(args.out) as folder:
        writer = make(folder, place, args.shard)
        rows = export.rows(components, place != "none")
        total = export.count(components)
        with tqdm.tqdm(rows, "export", total, unit="image", disable=None) as bar:
            writer.write(bar)
        for name in CARD:
            if (found := Path(args.mixture).parent / name).is_file():
                shutil.copy(found, folder)
    print(f"{args.out}: {writer.images:,} images, {writer.texts:,} texts ({args.to})")
    for key in writer.skipped[:10]:
        print(f"blip-jax export: {key}: not an image", file=sys.stderr)
    if writer.skipped:
        print(f"blip-jax export: {len(writer.skipped)} images left out", file=sys.stderr)
    return int(bool(writer.skipped))


@contextlib.contextmanager
def unfinished(out: str) -> Iterator[Path]:
    """A folder under a temporary name, called `out` when all went well and removed otherwise.

    Raises:
      UserError: `out` is taken, or cannot be made.
    """
    if "://" in out:
        raise UserError(f"OUT is {out}; export writes to a local folder")
    target = Path(os.path.abspath(out))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{out} exists already; give a new name")
    folder = target.with_name(f"{target.name}.incomplete")
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.replace(target)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{out} cannot be written ({reason(error)})") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
