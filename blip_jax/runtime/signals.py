"""Ctrl-C and SIGTERM as a question that a loop asks between steps, so that no step is cut short."""

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal, at a point from which it can be resumed.

    Attributes:
      status: the process's exit status: 0 after SIGTERM, which a machine gets before it is taken
        back and which is no failure of the work; 130 after Ctrl-C.
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.status = 0 if number == signal.SIGTERM else 128 + signal.SIGINT


class SignalHandler:
    """A context manager in which the first signal only sets `requested`; a second acts as usual.

    Args:
      synchronized: several processes stop after the same step, whichever of them gets the signal.
        JAX then handles SIGTERM and tells the others; Ctrl-C is turned into SIGTERM.

    Attributes:
      requested: whether a signal came.
      number: the signal's number; SIGTERM until one came.
    """

    def __init__(self, synchronized: bool = False):
        self.requested = False
        self.number = signal.SIGTERM
        self._synchronized = synchronized
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT,) if self._synchronized else SIGNALS
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *unused: Any) -> None:
        self._restore()

    def should_stop(self, step: int) -> bool:
        """Returns whether to stop after this step; all processes call it if `synchronized`."""
        if not self._synchronized:
            return self.requested
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True
        self.number = signal.Signals(number)
        self._restore()
        if self._synchronized:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None means that it was not set from Python, which then cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
