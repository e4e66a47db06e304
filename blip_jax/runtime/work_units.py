"""Runs independent units of work: in this process, in several, or on Apache Beam.

A unit writes its own files, all or none, and is finished when these exist. So a unit may run twice,
and a run that was stopped resumes with those that are missing.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from blip_jax.runtime import beam
from blip_jax.runtime.beam import BeamConfig, UnitStopped, Work
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.progress import Progress
from blip_jax.runtime.signals import Interrupted, SignalHandler
from blip_jax.runtime.worker_pool import BrokenPool, worker_pool


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where units of work run.

    Attributes:
      workers: processes; 1: this process.
      beam: Apache Beam in place of these processes, if it names a runner.
      folder: made while Beam works; all its workers must see it.
    """

    workers: int = 1
    beam: BeamConfig = BeamConfig()
    folder: str = ""


def finish_units(
    description: str,
    numbers: Sequence[int],
    make_work: Callable[[], Work],
    finished: Callable[[], set[int]],
    engine: Engine,
    *,
    unit: str = "unit",
    size: Callable[[int], int] = lambda number: 1,
    notes: Callable[[int], dict[str, str]] = lambda number: {},
    enabled: bool = True,
) -> None:
    """Runs the units that are not finished, with a progress bar, until all are.

    Args:
      description: of the bar, which is shown if `enabled`.
      numbers: of all units.
      make_work, finished, engine: as of `run_units`.
      unit: what the bar counts.
      size: returns how many of these a unit is.
      notes: called with each unit that is finished now; returns what the bar shows.

    Raises:
      Interrupted: a signal came; units that are finished are kept.
      UserError: as `run_units`.
    """
    found = finished()
    left = [number for number in numbers if number not in found]
    done = sum(size(number) for number in numbers if number in found)
    total = sum(map(size, numbers))
    with (
        SignalHandler() as signals,
        Progress(description, total, unit, done, enabled and bool(left)) as progress,
    ):
        try:
            for number in run_units(left, make_work, finished, engine, lambda: signals.requested):
                done += size(number)
                progress.update(size(number), **notes(number))
        except UnitStopped:
            message = (
                f"stopped after {done:,} of {total:,} {unit}s; rerun the same command to resume"
            )
            raise Interrupted(message, signals.number) from None


def run_units(
    numbers: Sequence[int],
    make_work: Callable[[], Work],
    finished: Callable[[], set[int]],
    engine: Engine,
    should_stop: Callable[[], bool],
) -> Iterator[int]:
    """Runs the work on each number and yields each number when its unit is finished.

    Args:
      numbers: of the units that are not finished.
      make_work: called once in each worker; it is pickled. The work raises `UnitStopped` when its
        second argument returns False.
      finished: returns the numbers of the units whose files exist.
      should_stop: asked several times a second.

    Raises:
      UnitStopped: `should_stop` returned True before all were finished.
      UserError: the work raised one, a worker process was killed, or Beam failed.
    """
    if engine.beam.runner and numbers:
        waiting = set(numbers)
        for _ in beam.run_units(numbers, make_work, engine.beam, engine.folder, should_stop):
            found = finished() & waiting
            waiting -= found
            yield from sorted(found)
        if waiting:
            raise UnitStopped
    elif min(engine.workers, len(numbers)) > 1:
        yield from _run_in_pool(numbers, make_work, engine.workers, should_stop)
    elif numbers:
        work = make_work()
        for number in numbers:
            work(number, lambda: not should_stop())
            yield number


def _run_in_pool(
    numbers: Sequence[int],
    make_work: Callable[[], Work],
    workers: int,
    should_stop: Callable[[], bool],
) -> Iterator[int]:
    stop = multiprocessing.RawValue("b", 0)  # has no lock, which a killed process would keep
    waiting = iter(numbers)
    running: set[concurrent.futures.Future] = set()
    with worker_pool(min(workers, len(numbers)), _start, stop, make_work) as pool:
        try:
            while True:
                while len(running) < 2 * workers and (number := next(waiting, None)) is not None:
                    running.add(pool.submit(_run_in_worker, number))
                if not running:
                    return
                ended, running = concurrent.futures.wait(
                    running, 0.2, concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    yield future.result()
                if should_stop():
                    raise UnitStopped
        except BrokenPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; rerun the same command "
                "to resume, with fewer workers (--config.workers, of export --workers) if memory "
                "is short"
            ) from error
        finally:
            stop.value = 1


class _Worker:
    """What a process of the pool knows: its work, and when to stop."""

    stop = None
    make_work: Callable[[], Work]
    work: Work | None = None


def _start(stop, make_work: Callable[[], Work]) -> None:
    # C libraries write a line to stderr for every slightly damaged image.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _Worker.stop, _Worker.make_work = stop, staticmethod(make_work)


def _run_in_worker(number: int) -> int:
    _Worker.work = _Worker.work or _Worker.make_work()
    _Worker.work(number, lambda: not _Worker.stop.value)
    return number
