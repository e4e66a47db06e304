"""What a verb's end means to the shell."""

import os
import signal
import sys

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted
from blip_jax.runtime.terminal import printable

# Errors that are reported in one line; all others show a traceback.
EXPECTED_ERRORS = (UserError, KeyboardInterrupt, BrokenPipeError)


def report_error(verb: str, error: BaseException) -> int:
    """Prints one of EXPECTED_ERRORS as one line on stderr; returns the exit status."""
    if isinstance(
        error, BrokenPipeError
    ):  # the program that reads our output has ended, e.g. `head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise Python flushes again
        return 128 + signal.SIGPIPE
    message = " ".join(str(error).splitlines()) or "stopped"
    print(f"blip-jax {verb}: {printable(message)}", file=sys.stderr)
    if isinstance(error, UserError):
        return 2
    return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT
