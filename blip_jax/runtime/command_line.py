"""The command line of this call, for what a verb writes down about itself."""

import contextlib
import contextvars
import shlex
from collections.abc import Iterator, Sequence

_argv: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("argv", default=())


@contextlib.contextmanager
def called_with(argv: Sequence[str]) -> Iterator[None]:
    """What runs inside it was called with `argv`: the verb and what follows it."""
    token = _argv.set(tuple(argv))
    try:
        yield
    finally:
        _argv.reset(token)


def command_line() -> str:
    """What a shell repeats this call with; "" where the library was called and no verb."""
    return shlex.join(["blip-jax", *_argv.get()]) if _argv.get() else ""
