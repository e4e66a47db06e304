"""Ctrl-C and SIGTERM as a question that a loop asks between steps, so that nothing is torn."""

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal, at a point from which it can go on.

    Attributes:
      status: of the process's exit: 0 after SIGTERM, with which machines are taken back and which
        is no failure of the work; 130 after Ctrl-C.
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.status = 0 if number == signal.SIGTERM else 128 + signal.SIGINT


class Interruptible:
    """While it is entered, the first signal only sets `requested`; a second one acts as usual.

    Args:
      together: several processes stop after the same step, whichever of them the signal reaches.
        JAX hears SIGTERM then, and passes it on; Ctrl-C is turned into one.

    Attributes:
      number: the signal's; SIGTERM until one came.
    """

    def __init__(self, together: bool = False):
        self.requested = False
        self.number = signal.SIGTERM
        self._together = together
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruptible":
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT,) if self._together else SIGNALS
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *unused: Any) -> None:
        self._restore()

    def at(self, step: int) -> bool:
        """Whether to stop after this step; with `together` every process asks at every step."""
        if not self._together:
            return self.requested
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True
        self.number = signal.Signals(number)
        self._restore()
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None: it was not set from Python, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
