"""The command line: main.py dispatches, and each verb is a module with `run(argv) -> status`.

A verb imports JAX and the like only once its arguments are understood.
"""

import argparse
from typing import NoReturn

from blip_jax.runtime.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose options cannot be abbreviated."""

    def __init__(self, verb: str, description: str, **options):
        super().__init__(
            prog=f"blip-jax {verb}", description=description, allow_abbrev=False, **options
        )
        self.add_argument(
            "--verbose", action="store_true", help="also show the messages of libraries"
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        # main.py acts on both.

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
