"""Guards a run against losses, gradients and parameters that are not finite."""

import collections
import math
import statistics
import sys
from collections.abc import Mapping

from blip_jax.runtime.errors import UserError
from blip_jax.train.config import NonfiniteConfig

ADVICE = "lower optimizer.schedule.peak_lr, or set optimizer.clip_norm=1"
DIVERGENCE_FACTOR = 3.0  # a loss above this multiple of its running median is a divergence
MEDIAN_REPORTS = 50  # reports of the running median
MIN_REPORTS = 10  # reports before the median is used


def is_finite(metrics: Mapping[str, float]) -> bool:
    """Returns whether a step's loss and gradient norm are finite."""
    return math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])


class FiniteGuard:
    """Ends a run at a step that is not finite, or counts the steps that were skipped.

    Metrics are read before a checkpoint is written, so none of a bad state is, and no step waits
    for the host. With nonfinite.action=skip the step itself leaves the state unchanged (step.py).

    Attributes:
      skipped_steps: steps of this run that were not finite.
    """

    def __init__(self, config: NonfiniteConfig):
        self._config = config
        self._in_a_row = 0
        self.skipped_steps = 0

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Counts one step; call it for each step, in order.

        Args:
          step: its number, from 1.
          metrics: of that step alone.

        Raises:
          UserError: the step is not finite, or too many in a row were skipped.
        """
        if is_finite(metrics):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self.skipped_steps += 1
        names = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        found = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite at step {step}"
        config = self._config
        if config.action == "stop":
            raise UserError(
                f"{found}; training has stopped, and the last checkpoint stays; {ADVICE}, or leave "
                "such steps out with nonfinite.action=skip"
            )
        if self._in_a_row >= config.max_in_a_row:
            raise UserError(
                f"{found}, the last of {self._in_a_row} skipped steps in a row "
                f"(nonfinite.max_in_a_row); training has stopped, and the last checkpoint stays; "
                f"{ADVICE}"
            )


class DivergenceWarning:
    """Warns once when the loss rises above a multiple of its running median."""

    def __init__(self):
        self._losses = collections.deque(maxlen=MEDIAN_REPORTS)
        self._warned = False

    def add(self, step: int, loss: float) -> None:
        """Takes the loss of a report at a step."""
        if not math.isfinite(loss):
            return
        median = statistics.median(self._losses) if len(self._losses) >= MIN_REPORTS else math.inf
        if not self._warned and median > 0 and loss > DIVERGENCE_FACTOR * median:
            self._warned = True
            print(
                f"the loss is {loss:.4g} at step {step}, more than {DIVERGENCE_FACTOR:g} times its "
                f"recent median {median:.4g}: training may be diverging; {ADVICE}",
                file=sys.stderr,
            )
        self._losses.append(loss)
