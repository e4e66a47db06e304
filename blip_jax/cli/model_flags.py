"""The flags by which the verbs that keep several models in memory name them."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip_jax.models import Model


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --model, which may be given several times, --dtype and --tokenizer."""
    add = parser.add_argument
    add("--model", action="append", required=True,
        help="workdir, .pth, Hugging Face folder or id; may be given several times")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    add("--tokenizer", help="folder or Hugging Face id [the checkpoint's]")


def load_models(args: argparse.Namespace) -> "list[Model]":
    """Returns the models that the flags name, in their order."""
    from blip_jax import models

    return [models.load(name, dtype=args.dtype, tokenizer=args.tokenizer) for name in args.model]
