"""Several processes of one run: how they start and end together, and exchange numbers.

Every process runs the same command. On TPU VMs, GKE, SLURM and Open MPI it finds the others by
itself; elsewhere the command names them, with another --process in each:

blip-jax train … --coordinator HOST:PORT --processes 2 --process 0
"""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from blip_jax.runtime.errors import UserError

TIMEOUT = 300  # seconds within which all processes must start
# Seconds for which processes that are done wait for process 0, which may write results alone; that
# it has died they learn by its heartbeat.
SHUTDOWN_TIMEOUT = 7 * 24 * 3600
EXIT_GRACE_SECONDS = 10  # for which a failed process waits for others to fail too


def initialize(
    coordinator: str = "", processes: int = 0, process: int = -1, timeout: float = TIMEOUT
) -> None:
    """Joins the processes of this run; must be called before JAX uses a device.

    Without arguments the cluster's environment is read. Does nothing on a single machine, or if
    this process has joined already. If the others do not start in time, the process ends with
    status 2 and one line: JAX raises nothing there that could be caught.

    Args:
      coordinator: HOST:PORT of process 0, which all can reach; the port is free there.
      processes: number of processes.
      process: number of this one, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: some arguments are missing or out of range, or the cluster's environment lacks
        what JAX needs.
    """
    if jax.distributed.is_initialized():
        return
    given = _checked(coordinator, processes, process)
    where = f"{coordinator}, process {process} of {processes}" if given else "this cluster"
    with _limit(timeout, where):
        try:
            # Our time limit is shorter than JAX's, which aborts with a stack trace.
            jax.distributed.initialize(
                **given,
                initialization_timeout=int(timeout) + 60,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
            )
        except ValueError as error:
            if "coordinator_address" in str(error):  # not in a cluster: one machine
                return
            raise UserError(f"{where}: {_line(error)}; {FLAGS}") from error
        except RuntimeError as error:
            # A process that already uses JAX, such as a notebook or a test, stays single.
            if not given and "must be called before" in str(error):
                return
            raise UserError(f"{where}: {_line(error)}; {FLAGS}") from error


FLAGS = "give --coordinator HOST:PORT, --processes and --process"


def _checked(coordinator: str, processes: int, process: int) -> dict:
    """Returns the arguments of `jax.distributed.initialize`; {} if nothing is given."""
    given = {
        "--coordinator": coordinator != "",
        "--processes": processes != 0,
        "--process": process != -1,
    }
    if not any(given.values()):
        return {}
    for flag, there in given.items():
        if not there:
            raise UserError(f"{flag} is missing; give {', '.join(given)} together")
    if not re.fullmatch(r"[^\s/]+:\d+", coordinator):
        raise UserError(f"--coordinator is {coordinator!r}; give HOST:PORT")
    if processes < 1:
        raise UserError(f"--processes is {processes}; give 1 or more")
    if not 0 <= process < processes:
        raise UserError(
            f"--process is {process}; with --processes {processes} give 0 to {processes - 1}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        # Processes of one host do not divide its devices unless the environment says so.
        "cluster_detection_method": "deactivate",
    }


@contextlib.contextmanager
def _limit(seconds: float, where: str) -> Iterator[None]:
    """Ends the process unless the block ends in time."""

    def end() -> None:
        print(
            f"blip-jax: {where}: not all processes have started within {seconds:g} s; start all "
            "of them, and check that all can reach the port of process 0",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def run_on_main(function: Callable[[], Any]) -> None:
    """Calls `function` on process 0 alone; all processes must call this.

    Raises:
      UserError: `function` raised one; on the other processes it points to process 0.
    """
    error = None
    if not is_multiprocess() or jax.process_index() == 0:
        try:
            function()
        except UserError as raised:
            error = raised
    if error is None and all_gather(0).any():
        raise UserError("process 0 has ended with an error; see its message")
    if error is not None:
        all_gather(1)
        raise error


def is_multiprocess() -> bool:
    """Returns whether this run has several processes; uses no device if it has not."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def exit_process(status: int) -> None:
    """Ends this process after a failure; returns if the run has no other process.

    The others may have failed of the same cause and end too. If not, they wait for this one in a
    collective operation, and JAX's shutdown would wait for them: so this process ends after
    EXIT_GRACE_SECONDS, and JAX ends the others when it notices.
    """
    if not is_multiprocess():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    end = threading.Timer(EXIT_GRACE_SECONDS, os._exit, [status])
    end.daemon = True
    end.start()
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()
    os._exit(status)


def all_gather(value: np.ndarray | int | float) -> np.ndarray:
    """Returns every process's `value`, [processes, ...], on each of them; all must call it."""
    if not is_multiprocess():
        return np.asarray(value)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))
