"""An import from start to end: plan, worker processes, and resuming where a run was stopped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from etils import epath

from blip_jax.data.ingest import output, plan, sources, units
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime.config import check_required, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import remove_incomplete, write_json
from blip_jax.runtime.progress import Progress, track
from blip_jax.runtime.signals import Interrupted, SignalHandler

PARTS, PLAN = "units", "plan.json"


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
    folder, parts = epath.Path(workdir), epath.Path(workdir) / PARTS
    made = [path for path in parts.parents if not path.exists()]  # innermost first
    settings = to_json(config)
    del settings["workers"]  # it does not affect the rows
    found, passed_over = sources.files(config)
    for note in passed_over:
        print(f"prepare: {note}", file=sys.stderr)
    files = [to_json(file) for file in found]
    asked = {"settings": settings, "files": files, "passed_over": passed_over}
    if (folder / output.MANIFEST).exists():
        manifest = _read(folder / output.MANIFEST, asked)
    else:
        work_units = _planned(parts, made, config, asked)
        remove_incomplete(parts)
        remove_incomplete(folder)
        workers = config.workers or len(os.sched_getaffinity(0))
        _work(work_units, config, os.fspath(parts), workers)
        with _removed_if_refused(parts, made):
            distance = config.near_duplicate_bits
            manifest = output.finish(workdir, os.fspath(parts), work_units, asked, distance)
    if parts.exists():
        parts.rmtree()
    print(output.table(manifest))
    print(f"dataset: {workdir}")


def _planned(
    parts: epath.Path, made: list[epath.Path], config: IngestConfig, asked: dict
) -> list[plan.WorkUnit]:
    """Returns the units: those of the run that was begun here, or new ones."""
    if (parts / PLAN).exists():
        kept = _read(parts / PLAN, asked)["units"]
        return [plan.WorkUnit(**unit) for unit in kept]
    if (parts.parent / "features.json").exists():
        raise UserError(f"{parts.parent} holds another dataset; choose another --workdir")
    with _removed_if_refused(parts, made):
        parts.mkdir(parents=True, exist_ok=True)
        files = [plan.File(**file) for file in asked["files"]]
        work_units = plan.units(track(files, "plan", len(files), "file"), config, parts)
        planned = [dataclasses.asdict(unit) for unit in work_units]
        write_json(parts / PLAN, {**asked, "units": planned})
    return work_units


@contextlib.contextmanager
def _removed_if_refused(parts: epath.Path, made: list[epath.Path]) -> Iterator[None]:
    """Removes the folder of units, and the folders `made` if empty, after a UserError."""
    try:
        yield
    except UserError:
        shutil.rmtree(parts, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _read(path: epath.Path, asked: dict) -> dict[str, Any]:
    """Returns a manifest or plan, once it is known to be of the same input and settings.

    Raises:
      UserError: it is of others.
    """
    content = json.loads(path.read_text())
    for name, value in asked["settings"].items():
        if content["settings"].get(name) != value:
            raise UserError(
                f"{path} was written by an import with {name}={content['settings'].get(name)!r}, "
                f"not {value!r}; choose another --workdir"
            )
    if content["files"] != asked["files"]:
        before, now = (
            {(file["path"], file["size"]) for file in found["files"]} for found in (content, asked)
        )
        changed = min(before ^ now, default=("the order of files", 0))[0]
        raise UserError(
            f"{path} was written for another input ({changed} has changed); "
            "choose another --workdir"
        )
    return content


def _work(work_units: list[plan.WorkUnit], config: IngestConfig, parts: str, workers: int) -> None:
    """Processes the units that are not done."""
    left = [unit for unit in work_units if not units.is_done(parts, unit.number)]
    done = len(work_units) - len(left)
    with (
        SignalHandler() as signals,
        Progress("prepare", len(work_units), "unit", initial=done) as progress,
    ):
        workers, rows = min(workers, len(left)), 0
        if workers > 1:
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


def _run_parallel(left, config: IngestConfig, parts: str, workers: int, signals) -> Iterator[dict]:
    """Yields the counts of the units, processed by several processes, as they are finished."""
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue("b", 0)  # has no lock, which a killed process would keep
    waiting = iter(left)
    running: set[concurrent.futures.Future] = set()
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _start, (stop, config, parts)
    ) as pool:
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
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; rerun the same command "
                "to resume, with a smaller --config.workers if memory is short"
            ) from error
        finally:
            stop.value = 1


_own: dict[str, Any] = {}  # a worker's stop, config and folder


def _start(stop, config: IngestConfig, parts: str) -> None:
    """Starts a worker: it leaves Ctrl-C to the parent, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # C libraries write a line to stderr for every slightly damaged image.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _own.update(stop=stop, config=config, parts=parts)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_in_worker(unit: plan.WorkUnit) -> dict:
    return units.process_unit(unit, _own["config"], _own["parts"], lambda: not _own["stop"].value)
