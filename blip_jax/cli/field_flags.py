"""Flags of the fields of a dataclass: their names, types, defaults and comments."""

import argparse
import contextlib
import dataclasses
import typing
from collections.abc import Container, Iterator
from typing import Any

from blip_jax.runtime.config import field_help, field_types
from blip_jax.runtime.errors import UserError


def add_field_flags(
    parser: argparse.ArgumentParser, defaults: Any, without_default: Container[str] = ()
) -> None:
    """Adds a flag for each field of a dataclass; not given, its value is None.

    Args:
      defaults: an instance; the help shows its values.
      without_default: fields whose default the help does not show.
    """
    types = field_types(type(defaults))
    for name, kind in types.items():
        value, flag = getattr(defaults, name), f"--{name.replace('_', '-')}"
        is_tuple = typing.get_origin(kind) is tuple
        shown = " ".join(map(str, value)) if is_tuple else value
        default = "" if name in without_default or shown == "" else f" [{shown}]"
        text = (field_help(type(defaults), name) + default).replace("%", "%%")
        options: dict[str, Any] = {"help": text}
        if is_tuple:
            kind = typing.get_args(kind)[0]
            options["nargs"] = "+"
        if kind is bool:
            options |= {"action": "store_true", "default": None}
        elif kind in (int, float, str):
            options |= {"type": kind, "metavar": {int: "N", float: "X", str: "TEXT"}[kind]}
        else:
            options["choices"] = typing.get_args(kind)
        parser.add_argument(flag, **options)


def given_fields(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Returns the fields of a dataclass that were given on the command line."""
    names = [field.name for field in dataclasses.fields(cls)]
    values = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}


@contextlib.contextmanager
def flags_in_messages(given: Container[str]) -> Iterator[None]:
    """Writes the names of fields that were given as flags in UserErrors of the block."""
    try:
        yield
    except UserError as error:
        words = str(error).split(" ")
        named = [f"--{w.replace('_', '-')}" if w in given else w for w in words]
        raise UserError(" ".join(named)) from error
