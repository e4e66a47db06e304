"""What a run reports: metrics.jsonl for programs, TensorBoard for eyes, a line for the terminal."""

import json
import math
import sys
import time
from typing import Any

import tqdm
from absl import logging
from etils import epath
from tensorboardX import SummaryWriter

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write

FILE = "metrics.jsonl"
RATE = "images/s"


class Logger:
    """Writes reports of a run; also a context manager, which closes it.

    A report is one line of `workdir/metrics.jsonl`: {"step": 200, "loss": 4.1, …}. A run that
    resumes from an older checkpoint trains some steps again; their lines of the first time are
    cut, so that a step is in the file once.

    Args:
      workdir: folder of the run, local or `gs://`; made if missing.
      total_steps: steps of the whole run, for the time that is left.
      images_per_step: images a step trains on, over all hosts.
      enabled: False on all hosts but one; every method then does nothing.
      start_step: steps done before this process. Lines after it are cut at once. None: the first
        report tells, and lines from its step on are cut then.
    """

    def __init__(self, workdir, total_steps, images_per_step, enabled=True, start_step=None):
        self._folder = epath.Path(workdir)
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._enabled = enabled
        self._last = None  # (step, seconds) of the last report
        self._named = set()  # metrics once seen not finite
        self._bar = self._tensorboard = None
        self._begun = False
        if enabled and start_step is not None:
            self._begin(start_step)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Reports at a step.

        From the second step reported on, "images/s" is added: the mean speed since the report
        before. The first interval is left out because it holds the compilation. A second report
        at one step (an evaluation) restarts the clock, so its time does not count as training.

        Args:
          step: steps done so far.
          metrics: name to a number or a scalar array. What is not finite is written as null,
            with one warning a name.
        """
        if not self._enabled:
            return
        if not self._begun:
            self._begin(step - 1)
        now = time.monotonic()
        values = {name: float(value) for name, value in metrics.items()}
        if self._last is not None and step > self._last[0]:
            seconds = max(now - self._last[1], 1e-9)
            values[RATE] = (step - self._last[0]) * self._images_per_step / seconds
        self._write(step, values)
        self._show(step, values)
        self._last = (step, now)

    def close(self) -> None:
        """Flushes and closes what is open; a second call does nothing."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._bar is not None:
            self._bar.close()
        self._tensorboard = self._bar = None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _begin(self, done: int) -> None:
        self._begun = True
        self._folder.mkdir(parents=True, exist_ok=True)
        _cut(self._folder / FILE, done)
        folder = str(self._folder / "tensorboard")
        try:
            self._tensorboard = SummaryWriter(folder, purge_step=done + 1)
        except ImportError as error:  # gs:// needs google-cloud-storage
            logging.warning("TensorBoard files are not written: %s", error)
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=self._total_steps, initial=done, unit="step", dynamic_ncols=True
            )

    def _write(self, step, values):
        for name, value in values.items():
            if not math.isfinite(value) and name not in self._named:
                self._named.add(name)
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

    def _show(self, step, values):
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
            return
        if values.get(RATE):
            steps_left = max(self._total_steps - step, 0)
            left = steps_left * self._images_per_step / values[RATE]
            shown += f"  left {tqdm.tqdm.format_interval(left)}"
        print(f"step {step}/{self._total_steps}  {shown}", file=sys.stderr, flush=True)


def read_metrics(path) -> dict[str, list[list]]:
    """Reads a metrics.jsonl.

    Args:
      path: the file, local or `gs://`.

    Returns:
      Name of a metric to its [step, value] pairs in the order written; value is a float, NaN
      where null was written. A last line that a crash left unfinished is passed over.

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


def _reports(path):
    lines = path.read_text().split("\n")
    reports = []
    for number, line in enumerate(lines[:-1], start=1):  # after the last newline: unfinished
        try:
            report = json.loads(line)
            reports.append({"step": int(report.pop("step")), **report})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}, line {number} is not a report: {line[:60]!r}") from None
    return reports


def _cut(path, done):
    """Drops reports after step `done`, and an unfinished last line."""
    if not path.exists():
        return
    kept = [report for report in _reports(path) if report["step"] <= done]
    text = "".join(json.dumps(report) + "\n" for report in kept)
    if text != path.read_text():
        with atomic_write(path) as file:  # a crash loses nothing
            file.write(text)
