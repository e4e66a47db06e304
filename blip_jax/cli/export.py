"""The verb `export`: writes the images and texts of a mixture as files for other programs."""

import argparse
import sys

from blip_jax.cli import Parser
from blip_jax.cli.image_files import reason
from blip_jax.runtime.errors import UserError

FORMATS = {
    "jsonl": "data.jsonl with one image per line, and image files",
    "parquet": "one image per row, with its bytes, for datasets.load_dataset",
    "webdataset": "tars of NAME.jpg, NAME.txt (one text per line) and NAME.json",
    "blip": "the original's captions.json with one entry per caption, and image files",
}


def parser() -> argparse.ArgumentParser:
    formats = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    found = Parser(
        "export",
        "Writes the images, texts and scores of a mixture (made by `assemble` or `capfilt`) to "
        "files. `blip-jax prepare` reads all of these formats. After an interruption the same "
        "command resumes.",
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
        "--shard", type=int, default=10_000, metavar="N",
        help="images per tar or Parquet file, and per unit of work [10000]",
    )  # fmt: skip
    found.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes; 0: one per core [0]"
    )
    found.add_argument(
        "--beam-runner", default="", metavar="NAME",
        help="Apache Beam's runner, as DaskRunner; its workers must see the input and OUT [none]",
    )  # fmt: skip
    found.add_argument(
        "--beam-options", default="", metavar="OPTIONS", help="the runner's, as on its command line"
    )
    return found


def run(argv: list[str]) -> int:
    """Writes the folder, whole or not at all, and prints counts.

    Returns: the exit status: 0, or 1 if images were skipped because their bytes are not an image.

    Raises:
      UserError: the mixture is incomplete, OUT exists or was begun with other options, or the
        options cannot be combined.
      Interrupted: a signal came; the same command resumes.
    """
    args = parser().parse_args(argv)

    from blip_jax.capfilt import export
    from blip_jax.runtime.beam import BeamConfig
    from blip_jax.runtime.terminal import printable

    if args.workers < 0:
        raise UserError(f"--workers is {args.workers}; expected 0 or more")
    components = tuple(args.component or ())
    settings = export.ExportSettings(args.to, args.images or "", components, args.shard)
    beam = BeamConfig(args.beam_runner, args.beam_options)
    try:
        found = export.run(args.mixture, args.out, settings, args.workers, beam)
    except OSError as error:
        raise UserError(f"{args.out} cannot be written ({reason(error)})") from error
    print(f"{args.out}: {found.images:,} images, {found.texts:,} texts ({args.to})")
    for key in found.skipped[:10]:
        print(f"blip-jax export: {printable(key)}: not an image", file=sys.stderr)
    if found.skipped:
        print(f"blip-jax export: skipped {len(found.skipped)} images", file=sys.stderr)
    return int(bool(found.skipped))
