"""Exit statuses of the command line, and errors that are reported in one line."""

import contextlib
import errno
import io
import os
import re
import signal
import sys

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted
from blip_jax.runtime.terminal import printable

# Errors of storage that the user can fix; other OSErrors show a traceback.
STORAGE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.EIO, errno.ESTALE,
}  # fmt: skip
# Of JAX on CPUs and GPUs, and on TPUs.
_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED: .*out of memory", re.IGNORECASE)
_USED = re.compile(r"allocat(e|ing) [\d.]+ ?\w+|Used [\d.]+\w of [\d.]+\w hbm")


def report_error(verb: str, error: BaseException) -> int | None:
    """Prints an error that the user can fix as one line on stderr.

    Returns: the exit status; None for other errors, of which nothing is printed.
    """
    if isinstance(error, BrokenPipeError):  # the reader of our output has ended, as `head` does
        discard_stdout()
        return 128 + signal.SIGPIPE
    message = _message(error)
    if message is None:
        return None
    print(f"blip-jax {verb}: {printable(message)}", file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT
    return 2


def _message(error: BaseException) -> str | None:
    if isinstance(error, UserError | KeyboardInterrupt):
        return " ".join(str(error).splitlines()) or "stopped"
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.match(str(error)):
        used = _USED.search(str(error))
        return f"out of memory{f' ({used[0]})' if used else ''}; choose a smaller batch size"
    place, reason = "", (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, OSError) and error.strerror:
        from blip_jax.runtime.files import final_name  # not above: --help has no need of NumPy

        place, reason = f"{final_name(error.filename)}: " if error.filename else "", error.strerror
    is_storage = isinstance(error, PermissionError) or (
        isinstance(error, OSError) and error.errno in STORAGE_ERRORS
    )
    if is_storage or any(os.strerror(number) in str(error) for number in STORAGE_ERRORS):
        # The latter are of libraries in C++, which raise other types.
        return (
            f"{place}{reason}; free space or correct the permissions, then rerun the same command"
        )
    return None


def discard_stdout() -> None:
    """Lets what is still to be written to stdout go nowhere; otherwise Python fails at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # in tests stdout is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
