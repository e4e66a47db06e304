"""Processes that share the work of this one."""

from __future__ import annotations

import concurrent.futures.process
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

BrokenPool = concurrent.futures.process.BrokenProcessPool  # a worker was killed


def num_workers(given: int) -> int:
    """Returns the number of processes that a setting means: 0 is one a core."""
    return given or len(os.sched_getaffinity(0))


def worker_pool(
    workers: int, initialize: Callable[..., None] | None = None, *arguments: Any
) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool of processes that leave Ctrl-C to this one and end when it does.

    They are spawned, as this process may hold threads of JAX.

    Args:
      initialize: called in each of them with `arguments`; both are pickled.
    """
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, context, _start, (initialize, arguments))


def _start(initialize: Callable[..., None] | None, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if initialize:
        initialize(*arguments)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
