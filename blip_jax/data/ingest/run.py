"""An import from start to end: plan, worker processes, and resuming where a run was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterator

from etils import epath

from blip_jax.data.ingest import output, plan, sources, units
from blip_jax.data.ingest.benchmarks import file_list
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.duplicates import Duplicates, DuplicateSearch
from blip_jax.runtime.beam import BeamConfig
from blip_jax.runtime.config import check_required, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import read_json, remove_incomplete, write_json
from blip_jax.runtime.fingerprint import FILE, check_fingerprint
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.progress import track
from blip_jax.runtime.terminal import print_note
from blip_jax.runtime.work_units import Engine, Work, finish_units
from blip_jax.runtime.worker_pool import num_workers

PARTS, PLAN, BENCHMARK = "units", "plan.json", "benchmark.json"
MIN_ROWS_PER_WORKER = 500_000  # for a worker of the search for duplicates


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
    _check_apart(workdir, found)
    for note in passed_over:
        print_note(f"prepare: {note}")
    with folder_lock(workdir, "prepare"):
        manifest = _import(config, workdir, settings, found, passed_over)
    print(output.table(manifest))
    print(f"dataset: {workdir}")


def _check_apart(workdir: str, found: list[plan.File]) -> None:
    """Raises a UserError if the dataset would be written into a folder of images that is read."""
    target = os.path.realpath(workdir)
    for file in found:
        folder = os.path.realpath(file.path)
        inside = target == folder or target.startswith(folder.rstrip("/") + "/")
        is_local = "://" not in f"{workdir}{file.path}"
        if file.format == "folder" and is_local and inside:
            raise UserError(
                f"--workdir {workdir} is in {file.path}, which is read; choose a folder outside"
            )


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
        _work(work_units, config, os.fspath(parts))
        files = [to_json(file) for file in found]
        asked = {"settings": settings, "files": files, "passed_over": passed_over}
        if config.benchmark:
            asked["benchmark"] = read_json(parts / BENCHMARK)
        with _removed_if_refused(parts):
            find_duplicates = functools.partial(_find_duplicates, config, os.fspath(parts))
            manifest = output.finish(
                workdir, os.fspath(parts), work_units, asked, config, find_duplicates
            )
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
    same = dataclasses.replace(config, workers=0, beam=BeamConfig())
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


def _work(work_units: list[plan.WorkUnit], config: IngestConfig, parts: str) -> None:
    """Processes the units that are not done."""
    rows = 0

    def count(number: int) -> dict[str, str]:
        nonlocal rows
        rows += units.read_counts(parts, number)["rows"]
        return {"rows": f"{rows:,}"}

    by_number = {unit.number: unit for unit in work_units}
    make_work = functools.partial(_unit_work, by_number, config, parts)
    engine = Engine(num_workers(config.workers), config.beam, os.path.join(parts, "beam"))
    finish_units(
        "prepare", list(by_number), make_work, lambda: units.done(parts), engine, notes=count
    )


def _unit_work(by_number: dict[int, plan.WorkUnit], config: IngestConfig, parts: str) -> Work:
    """Returns what a worker does with the number of a unit."""
    return lambda number, should_continue: units.process_unit(
        by_number[number], config, parts, should_continue
    )


def _find_duplicates(config: IngestConfig, parts: str, full: list[int]) -> Duplicates:
    """Returns the duplicates among the rows of the units that have rows."""
    search = DuplicateSearch(os.path.join(parts, "duplicates"), config.near_duplicate_bits)
    remove_incomplete(epath.Path(search.folder))
    rows = search.write_hashes(output.hashes(parts, full))
    # A few rows are searched sooner than other processes start.
    engine = Engine()
    if rows > MIN_ROWS_PER_WORKER:
        workers = min(num_workers(config.workers), rows // MIN_ROWS_PER_WORKER)
        engine = Engine(workers, config.beam, os.path.join(parts, "beam"))
    run_search = functools.partial(
        finish_units,
        make_work=search.make_work,
        finished=search.finished,
        engine=engine,
        enabled=rows > MIN_ROWS_PER_WORKER,
    )
    run_search("equal images", [0])
    run_search("similar images", list(search.near_units))
    return search.result()
