"""The verb `export`: writes the images and texts of a mixture as files for other programs."""

import argparse
import shutil
import sys
from pathlib import Path

from blip_jax.cli import Parser
from blip_jax.cli.image_files import reason
from blip_jax.runtime.errors import UserError

FORMATS = {
    "jsonl": "data.jsonl with one image per line, and image files",
    "parquet": "one image per row, with its bytes, for datasets.load_dataset",
    "webdataset": "tars of NAME.jpg, NAME.txt (one text per line) and NAME.json",
    "blip": "the original's captions.json with one entry per caption, and image files",
}
CARD = ("README.md", "statistics.json")  # written by `assemble` next to the mixture


def parser() -> argparse.ArgumentParser:
    formats = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    found = Parser(
        "export",
        "Writes the images, texts and scores of a mixture (made by `assemble` or `capfilt`) to "
        "files. `blip-jax prepare` reads all of these formats.",
    )
    found.add_argument("mixture", metavar="MIXTURE.json")
    found.add_argument("out", metavar="OUT", help="local folder to create")
    found.add_argument("--to", choices=FORMATS, required=True, help=formats)
    found.add_argument(
        "--images", choices=("files", "bytes", "none"),
        help="write images next to the list, into it, or not at all (only key and URL) "
        "[bytes for parquet and webdataset, else files]",
    )  # fmt: skip
    found.add_argument(
        "--component",
        action="append",
        help="export only this component of the mixture; can be repeated [all]",
    )
    found.add_argument(
        "--shard", type=int, default=10_000, metavar="N", help="images per tar or Parquet file"
    )
    return found


def run(argv: list[str]) -> int:
    """Writes the folder, whole or not at all, and prints counts.

    Returns: the exit status: 0, or 1 if images were skipped because their bytes are not an image.

    Raises:
      UserError: the mixture is incomplete, OUT exists, or the options cannot be combined.
    """
    args = parser().parse_args(argv)

    from blip_jax.capfilt import croissant, export
    from blip_jax.capfilt.writers import FORMATS as WRITERS
    from blip_jax.data.mixture import load_mixture
    from blip_jax.runtime.files import atomic_folder
    from blip_jax.runtime.progress import track
    from blip_jax.runtime.terminal import printable
    from blip_jax.runtime.worker_pool import num_workers

    make = WRITERS[args.to]
    place = args.images or make.PLACES[0]
    if place not in make.PLACES:
        known = " or ".join(make.PLACES)
        raise UserError(f"--to {args.to} takes --images {known}, not {place}")
    if args.shard < 1:
        raise UserError(f"--shard is {args.shard}; expected 1 or more")
    components = load_mixture(args.mixture)
    if unknown := sorted(set(args.component or ()) - {entry.name for entry in components}):
        names = ", ".join(entry.name for entry in components)
        raise UserError(f"{args.mixture} has no component {unknown[0]!r}; it has {names}")
    components = [
        entry for entry in components if not args.component or entry.name in args.component
    ]
    known = croissant.read(Path(args.mixture).parent)
    try:
        with atomic_folder(args.out) as folder:
            opt_out_names = export.opt_out_names(components)
            writer = make(folder, place, args.shard, opt_out_names)
            rows = export.rows(components, place != "none", num_workers(0))
            writer.write(track(rows, "export", export.count(components), "image"))
            for name in CARD:
                if (found := Path(args.mixture).parent / name).is_file():
                    shutil.copy(found, folder)
            metadata = croissant.exported(args.to, place, folder, opt_out_names, known)
            text = croissant.text_of(metadata)
            (folder / croissant.FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{args.out} cannot be written ({reason(error)})") from error
    print(f"{args.out}: {writer.images:,} images, {writer.texts:,} texts ({args.to})")
    for key in writer.skipped[:10]:
        print(f"blip-jax export: {printable(key)}: not an image", file=sys.stderr)
    if writer.skipped:
        print(f"blip-jax export: skipped {len(writer.skipped)} images", file=sys.stderr)
    return int(bool(writer.skipped))
