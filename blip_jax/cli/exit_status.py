"""What a verb's end means to the shell."""

import contextlib
import io
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
    if isinstance(error, BrokenPipeError):  # the program that reads our output, as `head`, ended
        discard_stdout()
        return 128 + signal.SIGPIPE
    print(f"blip-jax {verb}: {printable(str(error)) or 'stopped'}", file=sys.stderr)
    if isinstance(error, UserError):
        return 2
    return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT


def discard_stdout() -> None:
    """Lets what is still to be written to stdout go nowhere; otherwise Python fails at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # in tests stdout is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
