"""An import from its start to its end: the plan, the processes, and going on where it stopped."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import tqdm
from etils import epath
from ml_collections import ConfigDict

from blip_jax.data.ingest import output, plan, units
from blip_jax.data.ingest.config import Settings, from_config
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import remove_incomplete, write_json
from blip_jax.runtime.signals import Interrupted, Interruptible

PARTS, PLAN = "units", "plan.json"


def run(config: ConfigDict, workdir: str) -> None:
    """Imports what config.source names as a dataset into `workdir`, and prints what became of it.

    Killed at any moment, the same call goes on behind the units that are done, and the dataset is
    the same byte for byte.

    Raises:
      UserError: bad settings or input, or `workdir` holds something else.
      Interrupted: a signal came; units that are done stay.
    """
    wanted, workers = from_config(config)
    if "://" in workdir:
        raise UserError(f"prepare writes to a local folder, not to {workdir}; copy it from there")
    folder, parts = epath.Path(workdir), epath.Path(workdir) / PARTS
    asked = {
        "settings": dataclasses.asdict(wanted),
        "files": [dataclasses.asdict(file) for file in plan.files(wanted)],
    }
    asked = json.loads(json.dumps(asked))  # as it will be read back
    if (folder / output.MANIFEST).exists():
        manifest = _read(folder / output.MANIFEST, asked)
    else:
        work_units = _planned(parts, wanted, asked)
        remove_incomplete(parts)
        remove_incomplete(folder)
        _work(work_units, wanted, os.fspath(parts), workers)
        manifest = output.finish(
            workdir, os.fspath(parts), work_units, asked, wanted.near_duplicate_bits
        )
    if parts.exists():
        parts.rmtree()
    print(output.table(manifest))
    print(f"dataset: {workdir}")


def _planned(parts: epath.Path, wanted: Settings, asked: dict) -> list[plan.WorkUnit]:
    """The units: those of the run that was begun here, or new ones."""
    if (parts / PLAN).exists():
        kept = _read(parts / PLAN, asked)["units"]
        return [plan.WorkUnit(**unit) for unit in kept]
    if (parts.parent / "features.json").exists():
        raise UserError(f"{parts.parent} holds another dataset: use a new folder")
    parts.mkdir(parents=True, exist_ok=True)
    files = [plan.File(**file) for file in asked["files"]]
    work_units = plan.units(tqdm.tqdm(files, desc="plan", unit="file", disable=None), wanted, parts)
    write_json(parts / PLAN, {**asked, "units": [dataclasses.asdict(u) for u in work_units]})
    return work_units


def _read(path: epath.Path, asked: dict) -> dict[str, Any]:
    """A manifest or plan, once it is seen to be of the same input and settings.

    Raises:
      UserError: it is of others.
    """
    content = json.loads(path.read_text())
    for name, value in asked["settings"].items():
        if content["settings"].get(name) != value:
            raise UserError(
                f"{path} is of an import with {name}={content['settings'].get(name)!r}, "
                f"not {value!r}: use a new folder"
            )
    if content["files"] != asked["files"]:
        before, now = (
            {(file["path"], file["size"]) for file in found["files"]} for found in (content, asked)
        )
        changed = min(before ^ now, default=("the order of files", 0))[0]
        raise UserError(f"{path} is of another input ({changed} has changed): use a new folder")
    return content


def _work(work_units: list[plan.WorkUnit], wanted: Settings, parts: str, workers: int) -> None:
    """Does the units that are not done."""
    left = [unit for unit in work_units if not units.is_done(parts, unit.number)]
    done = len(work_units) - len(left)
    with (
        Interruptible() as interruption,
        tqdm.tqdm(
            total=len(work_units), initial=done, desc="prepare", unit="unit", disable=None
        ) as bar,
    ):
        workers, rows = min(workers, len(left)), 0
        if workers > 1:
            finished = _run_parallel(left, wanted, parts, workers, interruption)
        else:
            finished = _run_serial(left, wanted, parts, interruption)
        try:
            for counts in finished:
                rows, done = rows + counts["rows"], done + 1
                bar.update()
                bar.set_postfix(rows=f"{rows:,}")
        except units.UnitInterrupted:
            message = (
                f"stopped with {done:,} of {len(work_units):,} units done; the same command goes on"
            )
            raise Interrupted(message, interruption.number) from None


def _run_serial(left, wanted: Settings, parts: str, interruption) -> Iterator[dict]:
    """The units' counts, done in this process."""
    for unit in left:
        yield units.process_unit(unit, wanted, parts, lambda: not interruption.requested)


def _run_parallel(left, wanted: Settings, parts: str, workers: int, interruption) -> Iterator[dict]:
    """The units' counts, done by several processes, in the order they are done in."""
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue("b", 0)  # without a lock, which a process that is killed would keep
    waiting = iter(left)
    running: set[concurrent.futures.Future] = set()
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _start, (stop, wanted, parts)
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
                if interruption.requested:
                    raise units.UnitInterrupted
        except concurrent.futures.process.BrokenProcessPool as error:
            message = "a process was killed, perhaps for want of memory; the same command goes on"
            raise UserError(f"{message}, with fewer --config.workers if need be") from error
        finally:
            stop.value = 1


_own: dict[str, Any] = {}  # a worker's stop, settings and folder


def _start(stop, wanted: Settings, parts: str) -> None:
    """Begins a worker: Ctrl-C is the parent's, and the worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries of C write there of every image that is slightly damaged.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _own.update(stop=stop, wanted=wanted, parts=parts)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_in_worker(unit: plan.WorkUnit) -> dict:
    return units.process_unit(unit, _own["wanted"], _own["parts"], lambda: not _own["stop"].value)
