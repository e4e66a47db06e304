"""The metrics of a run's steps between two reports, and its throughput."""

import time

import jax
import numpy as np

from blip_jax.train.chips import peak_flops
from blip_jax.train.finite import FiniteGuard, is_finite
from blip_jax.train.setup import TrainSetup


class StepMetrics:
    """The metrics of the steps since the last report; they stay on the device until read."""

    def __init__(self, guard: FiniteGuard):
        self._guard = guard
        self._on_device: list[tuple[int, dict[str, jax.Array]]] = []
        self._fetched: list[dict[str, float]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step without waiting for it."""
        self._on_device.append((step, metrics))

    def fetch(self) -> None:
        """Reads the metrics of all steps so far.

        Raises:
          UserError: a step is not finite; see `FiniteGuard`.
        """
        steps = jax.device_get(self._on_device)
        self._on_device.clear()
        for step, metrics in steps:
            self._guard.check(step, metrics)
            self._fetched.append(metrics)

    def means(self) -> dict[str, float]:
        """Returns the means over the finite steps since the last call, and the skipped steps.

        Raises:
          UserError: as `fetch`.
        """
        self.fetch()
        finite = [metrics for metrics in self._fetched if is_finite(metrics)]
        self._fetched.clear()
        names = finite[0] if finite else ()
        values = {name: float(np.mean([metrics[name] for metrics in finite])) for name in names}
        if self._guard.skipped_steps:
            values["skipped_steps"] = self._guard.skipped_steps
        return values


class Throughput:
    """Images per second and chip, and MFU where the chip's peak is known."""

    def __init__(self, setup: TrainSetup):
        devices = setup.mesh.devices
        self._chips = devices.size
        self._batch_size = setup.config.batch_size
        self._flops = setup.task.flops(self._batch_size)
        self._peak = peak_flops(devices.flat[0]) * self._chips
        self._last: tuple[int, float] | None = None

    def restart(self, step: int) -> None:
        """Starts to measure at a step; the time before does not count."""
        self._last = step, time.monotonic()

    def since_last(self, step: int) -> dict[str, float]:
        """Returns the mean since the last call; {} at the first, which holds the compilation."""
        last, now = self._last, time.monotonic()
        self._last = step, now
        if last is None or step <= last[0]:
            return {}
        seconds = max(now - last[1], 1e-9) / (step - last[0])
        values = {"images/s/chip": self._batch_size / seconds / self._chips}
        if self._peak and self._flops:
            values["mfu"] = self._flops / seconds / self._peak
        return values
