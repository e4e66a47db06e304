"""The verbs that take no config: `files` (caption, match, answer) and `convert`.

Each reads its arguments with argparse, and imports jax only once they are understood.
"""

import argparse
from typing import NoReturn

from blip_jax.runtime.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse as the other verbs behave: an error is one line, and names are written out."""

    def __init__(self, verb: str, description: str):
        super().__init__(prog=f"blip-jax {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
