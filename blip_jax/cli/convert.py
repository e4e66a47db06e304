"""The verb `convert`: converts a checkpoint to another format, or exports it as programs."""

import argparse
import dataclasses
import os

from blip_jax.cli import Parser
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme
from blip_jax.runtime.numbers import is_digits
from blip_jax.runtime.terminal import printable

FORMATS = {
    "original": "a file of the original PyTorch code (.pth, .safetensors)",
    "hf": "a Hugging Face folder, for transformers' from_pretrained",
    "jax": "a workdir of this project, for --model and --config.init.run",
    "int8": "a workdir whose matrices are int8, a quarter of the size",
    "stablehlo": "a folder of programs that need JAX alone, for CPU, TPU and CUDA",
    "onnx": "a folder of programs for ONNX Runtime",
}


def parser() -> argparse.ArgumentParser:
    formats = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    found = Parser(
        "convert",
        "Converts a checkpoint. IN is a workdir, a file of the original (.pth, .safetensors), a "
        "Hugging Face folder or id; local or gs://.",
    )
    found.add_argument("source", metavar="IN")
    found.add_argument("target", metavar="OUT", help="with --push the repository, ORG/NAME")
    found.add_argument(
        "--to", choices=FORMATS, help=f"{formats}. Default: original for OUT.pth, else jax, or hf "
        "where IN is jax",
    )  # fmt: skip
    found.add_argument(
        "--push",
        action="store_true",
        help="write to Hugging Face's hub, as hf and with a model card; HF_TOKEN must be set",
    )
    found.add_argument("--private", action="store_true", help="make the repository private")
    found.add_argument(
        "--license", default="", metavar="NAME", help="of the model, for its card, as apache-2.0"
    )
    found.add_argument(
        "--tokenizer", help="folder or Hugging Face id; default: the tokenizer of IN"
    )
    found.add_argument(
        "--image-size", type=int, help="width and height in pixels; resizes the position embedding"
    )
    found.add_argument(
        "--heads", metavar="VIT,TEXT", type=_heads,
        help="attention heads, for a file of the original whose heads are not 64 wide",
    )  # fmt: skip
    return found


def last_evaluation(workdir: str) -> dict[str, float]:
    """Returns the metrics of a training's last evaluation by name; {} where there are none.

    Of a path that names a step (RUN/checkpoints/300), those of the last evaluation until then.
    """
    from etils import epath

    from blip_jax.checkpoints.workdir import split_step
    from blip_jax.train.logger import FILE, read_curves

    workdir, step = split_step(workdir)
    if not (epath.Path(workdir) / FILE).exists():
        return {}
    curves = read_curves(epath.Path(workdir) / FILE)
    found = {}
    for name, points in curves.items():
        known = [value for at, value in points if step is None or at <= step]
        if name.startswith("eval/") and known and known[-1] == known[-1]:  # no NaN
            found[name.removeprefix("eval/")] = known[-1]
    return found


def _heads(text: str) -> dict[str, int]:
    """Returns the numbers of attention heads, for argparse."""
    numbers = text.split(",")
    if len(numbers) != 2 or not all(is_digits(x) and int(x) for x in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of whole numbers, as in 12,12")
    return dict(zip(("vit", "med"), map(int, numbers), strict=True))


def run(argv: list[str]) -> int:
    """Converts a checkpoint, and prints the model's type and sizes.

    Raises:
      UserError: IN cannot be read, OUT exists, or its format lacks the model type.
    """
    args = parser().parse_args(argv)
    if args.push and args.to not in (None, "hf"):
        raise UserError(f"--push writes the format hf, not {args.to}; leave out --to")
    if not args.push and (args.private or args.license):
        raise UserError("--private and --license are of --push; give it, or leave them out")

    import jax
    import numpy as np
    from etils import epath

    from blip_jax import model_export
    from blip_jax.checkpoints import hub, sources
    from blip_jax.checkpoints.workdir import is_workdir

    sources.check_source(args.source)
    check_scheme(args.target)
    target = epath.Path(args.target)
    to = args.to
    if to is None:
        to = "hf" if is_workdir(args.source) else "jax"
        to = "original" if target.suffix in (".pth", ".pt", ".safetensors") else to
    if not args.push and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; choose another path")
    found = sources.read(args.source, heads=args.heads)
    found = sources.with_image_size(found, args.image_size)
    if args.tokenizer:
        found = dataclasses.replace(found, tokenizer=args.tokenizer)
    if args.push:
        metrics = last_evaluation(args.source)
        options = {"license": args.license, "private": args.private, "metrics": metrics}
        print(hub.push(found, args.target, **options))
        return 0
    try:
        if to in model_export.FORMATS:
            model_export.write(found, args.target, to)
        else:
            sources.write(found, args.target, to)
    except UserError:
        raise
    except Exception as error:  # OSError, and types of safetensors, PyTorch and Orbax
        detail = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{target} cannot be written ({detail or type(error).__name__})") from error

    arrays = [np.asarray(x) for x in jax.tree.leaves(found.params)]
    vit, med = found.config.vit, found.config.med
    stored = ("momentum", "queue") if to in ("jax", "original") else ()  # else parameters alone
    present = [name for name in stored if getattr(found, name) is not None]
    rows = {
        "model_type": found.model_type + "".join(f", {name}" for name in present),
        "image": f"{vit.image_size} x {vit.image_size}, patch {vit.patch_size}",
        "vision": f"{vit.depth} layers, {vit.width} wide, {vit.heads} heads",
        "text": f"{med.depth} layers, {med.width} wide, {med.heads} heads, {med.vocab_size} tokens",
        "parameters": f"{sum(x.size for x in arrays):,} in {len(arrays)} arrays",
        "written": f"{os.fspath(target)} ({FORMATS[to]})",
    }
    for name, value in rows.items():
        print(f"{name:>12}  {printable(value)}")
    return 0
