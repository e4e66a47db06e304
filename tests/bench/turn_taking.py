"""Processes that do the same work in turns, so that what else runs on a machine slows all alike.

A worker process calls `serve`; the process that compares starts a `Worker` for each side.
"""

import dataclasses
import io
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one run of the work took: wall seconds, and CPU seconds of all threads."""

    wall: float
    cpu: float


def serve(make: Callable[[], tuple[Callable[[], Any], Callable[[Any], Arrays] | None]]) -> None:
    """Does the work once, and again for each line on stdin; answers on what was stdout.

    Args:
      make: returns the work, which is timed and returns once its results are there; and what
        makes of its results arrays to compare with those of other workers, which are asked for by
        the name of a file.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print
    work, results = make()
    found = work()
    answers.write(json.dumps({"peak": peak_memory()}) + "\n")
    reset_peak_memory()
    for line in sys.stdin:
        if path := line.strip():
            np.savez(path, **results(found))
            reset_peak_memory()
            answers.write("{}\n")
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        turn = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        answers.write(json.dumps({**turn, "peak": peak_memory()}) + "\n")


class WorkerEnded(SystemExit):
    """A worker has ended before it answered."""


class Worker:
    """A process that has called `serve`.

    Args:
      env: variables in addition to those of this process.
      seconds: after which the process is killed; None: never.

    Attributes:
      first_peak: peak memory in MiB until the work was done once: loading and compiling too.
      peak: in MiB, of the turns since.
    """

    def __init__(
        self,
        argv: Sequence[Any],
        env: Mapping[str, str] | None = None,
        seconds: float | None = None,
        **options: Any,
    ):
        self._process = subprocess.Popen(
            [str(part) for part in argv], env=os.environ | dict(env or {}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        self._timer = threading.Timer(seconds or 0, self._process.kill)
        self._timer.daemon = True
        if seconds:
            self._timer.start()
        self._name, self.peak = " ".join(map(str, argv)), 0.0
        self.first_peak = self._answer()["peak"]

    def turn(self) -> Turn:
        """Does the work once more."""
        found = self._ask("")
        self.peak = max(self.peak, found.pop("peak"))
        return Turn(**found)

    def results(self, path: pathlib.Path) -> Arrays:
        """Returns the arrays of the last run, by way of a file."""
        self._ask(str(path))
        return dict(np.load(io.BytesIO(path.read_bytes())))

    def end(self) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()

    def _ask(self, line: str) -> dict:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise WorkerEnded(f"{self._name} has ended")
        return json.loads(line)


def take_turns(workers: Sequence[Worker], turns: int, warmup: int = 0) -> list[list[Turn]]:
    """Returns the turns of each worker; who comes first changes each time.

    A worker does its work twice, and the second counts: in use calls follow each other, while a
    virtual machine gives what was free for seconds back to its host, which made the first call
    after another worker's up to 5 s of CPU time longer.
    """
    times: list[list[Turn]] = [[] for _ in workers]
    for number in range(warmup + turns):
        order = range(len(workers))
        for place in order if number % 2 else reversed(order):
            workers[place].turn()
            turn = workers[place].turn()
            if number >= warmup:
                times[place].append(turn)
    return times


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Returns quartiles of the ratios turn by turn: low, median, high."""
    found = [a / b for a, b in zip(numerators, denominators, strict=True)]
    if len(found) == 1:
        return found * 3
    return statistics.quantiles(found, n=4, method="inclusive")


def peak_memory() -> float:
    """Returns this process's peak resident memory in MiB, since it was last reset."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def reset_peak_memory() -> None:
    """Makes `peak_memory` begin anew with what is resident now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
