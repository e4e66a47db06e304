"""What a verb's end means to the shell."""

import errno
import os
import signal
import sys

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted
from blip_jax.runtime.terminal import printable

# Errors that are reported in one line; all others show a traceback.
EXPECTED_ERRORS = (UserError, KeyboardInterrupt, BrokenPipeError)
# Errors of the storage, which the user can correct: no space, no permission, read only.
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def is_expected(error: BaseException) -> bool:
    """Returns whether an error is reported in one line."""
    if isinstance(error, EXPECTED_ERRORS):
        return True
    is_storage = isinstance(error, OSError) and error.errno in _STORAGE_ERRORS
    return is_storage or os.strerror(errno.ENOSPC) in str(error)  # of libraries in C++


def report_error(verb: str, error: BaseException) -> int:
    """Prints an error that `is_expected` as one line on stderr; returns the exit status."""
    if isinstance(
        error, BrokenPipeError
    ):  # the program that reads our output has ended, e.g. `head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise Python flushes again
        return 128 + signal.SIGPIPE
    message = " ".join(str(error).splitlines()) or "stopped"
    is_storage = not isinstance(error, EXPECTED_ERRORS)
    if is_storage:
        message = f"{message}; fix the storage and rerun the same command"
    print(f"blip-jax {verb}: {printable(message)}", file=sys.stderr)
    if isinstance(error, UserError) or is_storage:
        return 2
    return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT
