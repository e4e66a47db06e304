"""An import from start to end: plan, worker processes, and resuming where a run was stopped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from blip_jax.data.ingest import output, plan, sources, units
from blip_jax.data.ingest.benchmarks import file_list
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime import beam
from blip_jax.runtime.config import check_required, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import read_json, remove_incomplete, write_json
from blip_jax.runtime.fingerprint import FILE, check_fingerprint
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.progress import Progress, track
from blip_jax.runtime.signals import Interrupted, SignalHandler
from blip_jax.runtime.terminal import print_note
from blip_jax.runtime.worker_pool import BrokenPool, num_workers, worker_pool

PARTS, PLAN, BENCHMARK = "units", "plan.json", "benchmark.json"


def run(config: IngestConfig, workdir: str) -> None:
    """Imports what config.source names as a dataset into `workdir`, and prints the counts.

    After an interruption at any moment the same call resumes after the units that are done, and
    the dataset is the same byte for byte.

    Raises:
      UserError: bad settings or input, of which nothing is left in `workdir`; or `workdir` holds
        something else.
      Interrupted: a signal came; units that are done are kept.
    """
    check_required(config)
    if "://" in workdir:
        raise UserError(f"prepare writes to a local folder, not to {workdir}; copy it from there")
    settings = to_json(config)
    del settings["workers"], settings["beam"]  # they do not affect the rows
    found, passed_over = sources.files(config)
    for note in passed_over:
        print_note(f"prepare: {note}")
    with folder_lock(workdir, "prepare"):
        manifest = _import(config, workdir, settings, found, passed_over)
    print(output.table(manifest))
    print(f"dataset: {workdir}")


def _import(
    config: IngestConfig, workdir: str, settings: dict, found: list[plan.File], passed_over: list
) -> dict:
    """Makes the dataset unless it is there, and returns its manifest."""
    folder, parts = epath.Path(workdir), epath.Path(workdir) / PARTS
    is_finished, is_planned = (folder / output.MANIFEST).exists(), (parts / PLAN).exists()
    _check_same_run(folder, config, found, begun=is_finished or is_planned)
    if is_finished:
        manifest = json.loads((folder / output.MANIFEST).read_text())
    else:
        if is_planned:
            work_units = [plan.WorkUnit(**unit) for unit in read_json(parts / PLAN)]
        else:
            work_units = _planned(parts, config, found)
        remove_incomplete(parts)
        _work(work_units, config, os.fspath(parts), num_workers(config.workers))
        files = [to_json(file) for file in found]
        asked = {"settings": settings, "files": files, "passed_over": passed_over}
        if config.benchmark:
            asked["benchmark"] = read_json(parts / BENCHMARK)
        with _removed_if_refused(parts):
            manifest = output.finish(workdir, os.fspath(parts), work_units, asked, config)
    if parts.exists():
        parts.rmtree()
    return manifest


def _check_same_run(
    folder: epath.Path, config: IngestConfig, found: list[plan.File], begun: bool
) -> None:
    """Writes fingerprint.json, or compares the settings and files with those of an earlier run.

    Raises:
      UserError: `folder` holds the dataset of another run, or of other work.
    """
    if not begun and (folder / "features.json").exists():
        raise UserError(f"{folder} holds another dataset; choose another --workdir")
    files = track(found, "fingerprint", len(found), "file")
    # Where the work is done does not affect the rows.
    same = dataclasses.replace(config, workers=0, beam=beam.BeamConfig())
    values = {"settings": same, "files": {file.path: sources.digest(file) for file in files}}
    check_fingerprint(folder, "prepare", values, begun=begun)


def _planned(parts: epath.Path, config: IngestConfig, found: list[plan.File]) -> list:
    """Returns new units, which are written to the plan."""
    with _removed_if_refused(parts):
        parts.mkdir(parents=True, exist_ok=True)
        if config.benchmark:
            work_units, counts = plan.benchmark_units(found, config, parts)
            write_json(parts / BENCHMARK, counts)
            if note := file_list.difference(config.benchmark, config.split, counts):
                print_note(f"prepare: {note}")
        else:
            work_units = plan.units(track(found, "plan", len(found), "file"), config, parts)
        write_json(parts / PLAN, [dataclasses.asdict(unit) for unit in work_units])
    return work_units


@contextlib.contextmanager
def _removed_if_refused(parts: epath.Path) -> Iterator[None]:
    """Removes the folder of units and the fingerprint after a UserError."""
    try:
        yield
    except UserError:
        shutil.rmtree(parts, ignore_errors=True)
        (parts.parent / FILE).unlink(missing_ok=True)
        raise


def _work(work_units: list[plan.WorkUnit], config: IngestConfig, parts: str, workers: int) -> None:
    """Processes the units that are not done."""
    left = [unit for unit in work_units if not units.is_done(parts, unit.number)]
    done = len(work_units) - len(left)
    with (
        SignalHandler() as signals,
        Progress("prepare", len(work_units), "unit", initial=done) as progress,
    ):
        workers, rows = min(workers, len(left)), 0
        if config.beam.runner and left:
            finished = _run_on_beam(left, config, parts, signals)
        elif workers > 1:
            finished = _run_parallel(left, config, parts, workers, signals)
        else:
            finished = _run_serial(left, config, parts, signals)
        try:
            for counts in finished:
                rows, done = rows + counts["rows"], done + 1
                progress.update(rows=f"{rows:,}")
        except units.UnitInterrupted:
            message = (
                f"stopped after {done:,} of {len(work_units):,} units; rerun the same command to "
                "resume"
            )
            raise Interrupted(message, signals.number) from None


def _run_serial(left, config: IngestConfig, parts: str, signals) -> Iterator[dict]:
    """Yields the counts of the units, processed in this process."""
    for unit in left:
        yield units.process_unit(unit, config, parts, lambda: not signals.requested)


def _run_on_beam(left, config: IngestConfig, parts: str, signals) -> Iterator[dict]:
    """Yields the counts of the units, processed by the workers of a Beam pipeline."""
    waiting = {unit.number for unit in left}
    for _ in beam.run_units(
        sorted(waiting),
        functools.partial(_beam_work, left, config, parts),
        config.beam,
        os.path.join(parts, "beam"),
        lambda: signals.requested,
    ):
        done = units.done(parts) & waiting
        waiting -= done
        yield from (units.read_counts(parts, number) for number in sorted(done))
    if waiting:
        raise units.UnitInterrupted


def _beam_work(left: list[plan.WorkUnit], config: IngestConfig, parts: str) -> beam.Work:
    """Returns what a worker of Beam does with the number of a unit."""
    by_number = {unit.number: unit for unit in left}

    def work(number: int, should_continue: Callable[[], bool]) -> None:
        try:
            units.process_unit(by_number[number], config, parts, should_continue)
        except units.UnitInterrupted as error:
            raise beam.UnitStopped from error

    return work


def _run_parallel(left, config: IngestConfig, parts: str, workers: int, signals) -> Iterator[dict]:
    """Yields the counts of the units, processed by several processes, as they are finished."""
    stop = multiprocessing.RawValue("b", 0)  # has no lock, which a killed process would keep
    waiting = iter(left)
    running: set[concurrent.futures.Future] = set()
    with worker_pool(workers, _start, stop, config, parts) as pool:
        try:
            while True:
                while len(running) < 2 * workers and (unit := next(waiting, None)):
                    running.add(pool.submit(_run_in_worker, unit))
                if not running:
                    return
                ended, running = concurrent.futures.wait(
                    running, 0.2, concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    yield future.result()
                if signals.requested:
                    raise units.UnitInterrupted
        except BrokenPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; rerun the same command "
                "to resume, with a smaller --config.workers if memory is short"
            ) from error
        finally:
            stop.value = 1


_own: dict[str, Any] = {}  # a worker's stop, config and folder


def _start(stop, config: IngestConfig, parts: str) -> None:
    # C libraries write a line to stderr for every slightly damaged image.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _own.update(stop=stop, config=config, parts=parts)


def _run_in_worker(unit: plan.WorkUnit) -> dict:
    return units.process_unit(unit, _own["config"], _own["parts"], lambda: not _own["stop"].value)
