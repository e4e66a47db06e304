"""The metrics of a run: metrics.jsonl, TensorBoard files, and a bar or lines on stderr."""

import json
import math
import sys
import time
from typing import Any

import tqdm
from absl import logging
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, check_regular
from blip_jax.runtime.numbers import is_number
from blip_jax.runtime.terminal import print_note

FILE = "metrics.jsonl"
THROUGHPUT = "images/s"


class Logger:
    """Writes the metrics of a run; a context manager that closes its files.

    A report is one line of `workdir/metrics.jsonl`: {"step": 200, "loss": 4.1, …}. A run that
    resumes from an older checkpoint trains some steps again; their earlier lines are removed, so
    that each step is in the file once.

    Args:
      workdir: folder of the run, local or `gs://`; made if missing.
      total_steps: steps of the whole run, from which the time left is computed.
      images_per_step: images of a step, over all hosts.
      enabled: False on all hosts but one; every method then does nothing.
      start_step: steps done before this process; later lines are removed at once. None: lines from
        the first reported step on are removed at that report.
    """

    def __init__(self, workdir, total_steps, images_per_step, enabled=True, start_step=None):
        self._folder = epath.Path(workdir)
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._enabled = enabled
        self._last = None  # (step, seconds) of the last report
        self._non_finite = set()  # names of metrics that have been NaN or infinite
        self._bar = self._tensorboard = None
        self._service = None
        self._begun = False
        if enabled and start_step is not None:
            self._begin(start_step)

    def report_to(self, service) -> None:
        """Gives also a service the metrics that are finite, and closes it with the files.

        Args:
          service: such as a `wandb_run.WandbRun`.
        """
        self._service = service

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Reports at a step.

        From the second reported step on, "images/s" is added: the mean since the previous report.
        There is none for the first interval because it includes the compilation. A second report
        at the same step (an evaluation) restarts the clock, so its time is not counted.

        Args:
          step: steps done so far.
          metrics: name to a number or a scalar array. NaN and infinity are written as null, with
            one warning for each name.
        """
        if not self._enabled:
            return
        if not self._begun:
            self._begin(step - 1)
        now = time.monotonic()
        values = {name: float(value) for name, value in metrics.items()}
        if self._last is not None and step > self._last[0]:
            seconds = max(now - self._last[1], 1e-9)
            values[THROUGHPUT] = (step - self._last[0]) * self._images_per_step / seconds
        self._write(step, values)
        self._show(step, values)
        self._last = (step, now)

    def close(self) -> None:
        """Flushes and closes what is open; a second call does nothing."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._bar is not None:
            self._bar.close()
        if self._service is not None:
            self._service.close()
        self._tensorboard = self._bar = self._service = None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _begin(self, done: int) -> None:
        self._begun = True
        self._folder.mkdir(parents=True, exist_ok=True)
        _truncate_after(self._folder / FILE, done)
        folder = str(self._folder / "tensorboard")
        try:
            from tensorboardX import SummaryWriter  # imports torch where it is installed: 2 s

            self._tensorboard = SummaryWriter(folder, purge_step=done + 1)
        except ImportError as error:  # gs:// needs google-cloud-storage
            logging.warning("TensorBoard files are not written: %s", error)
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=self._total_steps, initial=done, unit="step", dynamic_ncols=True
            )

    def _write(self, step, values):
        for name, value in values.items():
            if not math.isfinite(value) and name not in self._non_finite:
                self._non_finite.add(name)
                logging.warning("metric %s is %s at step %d; written as null", name, value, step)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = json.dumps({"step": step, **{name: finite.get(name) for name in values}}) + "\n"
        file = self._folder / FILE
        if "://" in str(file):  # object stores cannot append
            file.write_text((file.read_text() if file.exists() else "") + line)
        else:
            with file.open("a") as opened:
                opened.write(line)
        if self._tensorboard is not None:
            for name, value in finite.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._service is not None:
            self._service.log(step, finite)

    def _show(self, step, values):
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
            return
        if values.get(THROUGHPUT):
            steps_left = max(self._total_steps - step, 0)
            left = steps_left * self._images_per_step / values[THROUGHPUT]
            shown += f"  left {tqdm.tqdm.format_interval(left)}"
        print(f"step {step}/{self._total_steps}  {shown}", file=sys.stderr, flush=True)


def read_metrics(path) -> dict[str, list[list]]:
    """Reads a metrics.jsonl.

    Args:
      path: the file, local or `gs://`.

    Returns:
      Name of a metric to its [step, value] pairs in the order written; value is a number, NaN
      where null was written. A last line that a crash left incomplete is ignored.

    Raises:
      UserError: there is no such file, or a line in it is not a report.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"no metrics at {path}; give the {FILE} of a run")
    metrics = {}
    for report in _reports(path):
        step = report.pop("step")
        for name, value in report.items():
            metrics.setdefault(name, []).append([step, math.nan if value is None else value])
    return metrics


def read_curves(path) -> dict[str, list[list]]:
    """Returns what `read_metrics` does; {}, with a note, where it raises: for a report."""
    try:
        return read_metrics(path)
    except UserError as error:
        print_note(f"the report lacks a curve: {error}")
        return {}


def _reports(path):
    check_regular(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    reports = []
    for number, line in enumerate(lines[:-1], start=1):  # text after the last newline is incomplete
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            report = None
        if not _is_report(report):
            text = line[:60].decode(errors="replace")
            raise UserError(f"{path}, line {number} is not a report: {text!r}")
        reports.append({"step": int(report.pop("step")), **report})
    return reports


def _is_report(value):
    """Returns whether it is an object of a step and of metrics, numbers or null."""
    if not isinstance(value, dict) or not is_number(value.get("step")):
        return False
    return all(number is None or is_number(number) for number in value.values())


def _truncate_after(path, done):
    """Removes reports after step `done`, and an incomplete last line."""
    if not path.exists():
        return
    kept = [report for report in _reports(path) if report["step"] <= done]
    text = "".join(json.dumps(report) + "\n" for report in kept)
    if text != path.read_text():
        with atomic_write(path) as file:  # so that a crash loses nothing
            file.write(text)
