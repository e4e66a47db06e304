"""Several processes as one: starting them together, leaving together, and agreeing on numbers.

Every process runs the same command. On TPU VMs, GKE, SLURM and Open MPI it finds the others by
itself; elsewhere it is told, in the same words but for its number:

blip-jax train … --coordinator HOST:PORT --processes 2 --process 0
"""

import contextlib
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from blip_jax.runtime.errors import UserError

TIMEOUT = 300  # seconds that processes wait for each other at the start
DAYS = 7  # that one which is done waits for others
MEETINGS = itertools.count()
EXIT_GRACE_SECONDS = 10  # seconds that one which failed waits for others to fail too


def initialize(
    coordinator: str = "", processes: int = 0, process: int = -1, timeout: float = TIMEOUT
) -> None:
    """Joins the processes of this run; must come before JAX touches a device.

    With nothing given the cluster's own environment is asked; a single machine starts nothing,
    nor does a process that has joined already. Where the others do not come in time, the process
    ends with status 2 and one line: JAX leaves nothing to catch there.

    Args:
      coordinator: HOST:PORT of process 0, as all can reach it; the port is free there.
      processes: how many there are.
      process: which of them this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: given in part, or out of range; or a cluster without what JAX needs to know.
    """
    if jax.distributed.is_initialized():
        return
    given = _checked(coordinator, processes, process)
    where = f"{coordinator}, process {process} of {processes}" if given else "this cluster"
    with _limit(timeout, where):
        try:
            # Ours ends first: JAX's own limit aborts with a stack trace.
            jax.distributed.initialize(**given, initialization_timeout=int(timeout) + 60)
        except ValueError as error:
            if "coordinator_address" in str(error):  # no cluster: one machine
                return
            raise UserError(f"{where}: {_line(error)}; {FLAGS}") from error
        except RuntimeError as error:
            # A process that computes already, as a notebook or a test, stays alone.
            if not given and "must be called before" in str(error):
                return
            raise UserError(f"{where}: {_line(error)}; {FLAGS}") from error


FLAGS = "give --coordinator HOST:PORT, --processes and --process"


def _checked(coordinator: str, processes: int, process: int) -> dict:
    """Arguments of `jax.distributed.initialize`; {} if nothing is given."""
    given = {
        "--coordinator": coordinator != "",
        "--processes": processes != 0,
        "--process": process != -1,
    }
    if not any(given.values()):
        return {}
    for flag, there in given.items():
        if not there:
            raise UserError(f"{flag} is missing: {', '.join(given)} go together")
    if not re.fullmatch(r"[^\s/]+:\d+", coordinator):
        raise UserError(f"--coordinator is {coordinator!r}: give HOST:PORT")
    if processes < 1:
        raise UserError(f"--processes is {processes}: give 1 or more")
    if not 0 <= process < processes:
        raise UserError(
            f"--process is {process}: with --processes {processes} give 0 to {processes - 1}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        # A host's processes do not share out its devices unless the environment says so.
        "cluster_detection_method": "deactivate",
    }


@contextlib.contextmanager
def _limit(seconds: float, where: str) -> Iterator[None]:
    """Ends the process unless what is inside ends in time."""

    def end() -> None:
        print(
            f"blip-jax: {where}: not all processes came together within {seconds:g} s; start "
            "every one, and see that process 0's port can be reached",
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


def is_multiprocess() -> bool:
    """Whether other processes take part; touches no device where none was started."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def exit_process(status: int) -> None:
    """Ends a process that failed; returns if it is alone.

    The others may have failed of the same cause and leave with it. If they have not, they wait
    for this one in a sum, and it would wait for them at its end: so it goes after a moment, and
    they are ended by JAX, which misses it.
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
    """`value` of every process, [processes, ...], the same on all; all must call it."""
    if not is_multiprocess():
        return np.asarray(value)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def meet(place: str) -> None:
    """Waits until all processes are here, for days if need be, and without their devices."""
    if is_multiprocess():
        name = f"{place} {next(MEETINGS)}"  # a name is good for one meeting
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=DAYS * 24 * 3600 * 1000)
