"""Runs independent units of work on Apache Beam (extra `beam`), so that its runners manage a fleet.

A unit writes its own files, all or none, and is done when these exist. So nothing is sent through
the pipeline but the numbers of units, a unit may run twice, and a run resumes with those that are
missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed

POLL_SECONDS = 0.5
# Runners that Beam knows by their full names only.
FULL_NAMES = {"DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner"}
STOP, ERROR = "stop", "error.txt"  # files by which the workers and this process speak
# Work on one unit: its number, and a function that tells whether to continue.
Work = Callable[[int, Callable[[], bool]], Any]


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """Where the units of work run."""

    # Apache Beam's runner, as DirectRunner, DaskRunner, FlinkRunner, SparkRunner, DataflowRunner;
    # "": no Beam. All its workers must see the input and the workdir.
    runner: str = ""
    # The runner's options, as on its command line.
    options: str = ""


class UnitStopped(Exception):
    """The unit was not finished, as the run is stopped; nothing of it is kept."""


def run_units(
    numbers: Sequence[int],
    make_work: Callable[[], Work],
    config: BeamConfig,
    folder: str,
    should_stop: Callable[[], bool],
) -> Iterator[None]:
    """Runs the work on each number until all are done or the run is stopped; yields meanwhile.

    Yields twice a second and once at the end, so that the caller can look for finished units.

    Args:
      numbers: of the units that are not done.
      make_work: called once in each worker, for instance to load models; it is pickled.
      folder: made here and removed at the end; all workers must see it.
      should_stop: asked as often; once it is true, workers stop at their next question.

    Raises:
      UserError: Beam is not installed, there is no such runner, the pipeline failed, or `make_work`
        or the work raised one.
    """
    check_installed("beam", "apache_beam")
    import apache_beam as beam

    shared = epath.Path(folder)
    with contextlib.suppress(FileNotFoundError):
        shared.rmtree()
    shared.mkdir(parents=True)
    failures: list[Exception] = []

    def run() -> None:
        try:
            options = beam.options.pipeline_options.PipelineOptions(
                ["--default_sdk_harness_log_level=WARNING", *shlex.split(config.options)],
                runner=FULL_NAMES.get(config.runner, config.runner),
            )
            with beam.Pipeline(options=options) as pipeline:
                (
                    pipeline
                    | "numbers" >> beam.Create(list(numbers))
                    | "spread over workers" >> beam.Reshuffle()
                    | "work" >> beam.ParDo(_unit_function(beam, make_work, str(shared)))
                )
        except Exception as error:  # of the runner; raised below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="Beam pipeline", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if should_stop():
                (shared / STOP).touch()
            yield
        stopped = (shared / STOP).exists()  # the same signal may have ended the workers
        if (shared / ERROR).exists():
            raise UserError((shared / ERROR).read_text())
        if failures and not stopped:
            lines = str(failures[0]).strip().splitlines() or [type(failures[0]).__name__]
            raise UserError(
                f"Beam's {config.runner} failed: {lines[-1]}; the finished units are kept, and the "
                "same command resumes"
            ) from failures[0]
    finally:
        shared.rmtree()


def _unit_function(beam: Any, make_work: Callable[[], Work], folder: str) -> Any:
    """Returns the `DoFn` of the work; a class of its own, as Beam is imported only when used."""

    class UnitFunction(beam.DoFn):
        def setup(self) -> None:
            self.work: Work | None = None

        def process(self, number: int) -> None:
            shared = epath.Path(folder)
            if (shared / STOP).exists() or (shared / ERROR).exists():
                return
            try:
                self.work = self.work or make_work()
                self.work(number, _Continue(shared / STOP))
            except UnitStopped:
                return
            except UserError as error:  # told once; a runner would repeat the unit
                (shared / ERROR).write_text(str(error))

    return UnitFunction()


class _Continue:
    """Whether to continue, looked up at most once a second, as the folder may be remote."""

    def __init__(self, stop: epath.Path):
        self._stop, self._asked, self._stopped = stop, 0.0, False

    def __call__(self) -> bool:
        if time.monotonic() - self._asked > 1:
            self._stopped, self._asked = self._stop.exists(), time.monotonic()
        return not self._stopped
