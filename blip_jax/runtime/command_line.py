"""The command line of this call, which verbs store with their results."""

import contextlib
import contextvars
import shlex
from collections.abc import Iterator, Sequence

_argv: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("argv", default=())


@contextlib.contextmanager
def called_with(argv: Sequence[str]) -> Iterator[None]:
    """Sets `command_line` for the block: `argv` is the verb and what follows it."""
    token = _argv.set(tuple(argv))
    try:
        yield
    finally:
        _argv.reset(token)


def command_line() -> str:
    """Returns the shell command that repeats this call; "" if the library was called directly."""
    return shlex.join(["blip-jax", *_argv.get()]) if _argv.get() else ""
