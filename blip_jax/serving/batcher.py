"""Batches of rows that came at different times: dynamic batching with a bound on waiting."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from blip_jax.serving.batch_sizes import BatchSizes


class QueueFull(Exception):
    """More rows would wait than may."""


class Function(Protocol):
    """What a batcher calls with rows: see `programs.BatchFunction`."""

    batch_sizes: BatchSizes

    def __call__(self, rows: Sequence[Any]) -> list[Any]: ...


class BatchReport(NamedTuple):
    """A batch that was computed, for metrics; times in seconds.

    Attributes:
      function: its name.
      waits: of each row, from `submit` to the begin of the computation.
      duration: of the computation.
    """

    function: str
    waits: list[float]
    duration: float


class _Waiting(NamedTuple):
    row: Any
    future: Future
    since: float


class Batcher:
    """Computes rows in one thread, batch by batch.

    A batch begins when the device is free and either a function has as many rows as a batch may
    have, or its oldest row has waited for `max_wait`. If several are due, the one whose row is the
    oldest begins. Rows of a function begin in the order in which they came; how many of them a
    batch takes says `BatchSizes`.

    Args:
      functions: by name.
      max_wait: seconds.
      max_rows: that may wait, of all functions together.
      report: called after each batch, in the batcher's thread.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        max_wait: float,
        max_rows: int,
        report: Callable[[BatchReport], None] = lambda report: None,
    ):
        self._functions = functions
        self._max_wait, self._max_rows, self._report = max_wait, max_rows, report
        self._queues: dict[str, deque[_Waiting]] = {name: deque() for name in functions}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def start(self) -> None:
        """Begins to compute."""
        self._thread.start()

    def close(self) -> None:
        """Returns once all rows that were submitted are computed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Returns how many rows wait."""
        return sum(map(len, self._queues.values()))

    def submit(self, rows: Sequence[tuple[str, Any]]) -> list[Future]:
        """Puts rows, each with the name of its function, into the queue.

        Returns: a future of each row's result; one that is cancelled in time is not computed.

        Raises:
          QueueFull: not all of them have room; none was put in.
        """
        now = time.monotonic()
        with self._changed:
            if self.waiting + len(rows) > self._max_rows:
                raise QueueFull
            futures = []
            for name, row in rows:
                futures.append(Future())
                self._queues[name].append(_Waiting(row, futures[-1], now))
            self._changed.notify()
        return futures

    def _run(self) -> None:
        while (found := self._next_batch()) is not None:
            name, batch = found
            batch = [x for x in batch if x.future.set_running_or_notify_cancel()]
            if batch:
                self._compute(name, batch)

    def _next_batch(self) -> tuple[str, list[_Waiting]] | None:
        """Returns the rows of the next batch, when it is due; None: closed, and none are left."""
        with self._changed:
            while True:
                heads = sorted((q[0].since, name) for name, q in self._queues.items() if q)
                if not heads and self._closed:
                    return None
                now = time.monotonic()
                for since, name in heads:
                    queue, sizes = self._queues[name], self._functions[name].batch_sizes
                    is_full = len(queue) >= sizes.largest
                    if self._closed or is_full or now - since >= self._max_wait:
                        return name, [queue.popleft() for _ in range(sizes.rows(len(queue)))]
                self._changed.wait(heads[0][0] + self._max_wait - now if heads else None)

    def _compute(self, name: str, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        try:
            results = self._functions[name]([x.row for x in batch])
        except Exception as error:  # of the compiler or the device; the next batch may succeed
            for x in batch:
                x.future.set_exception(error)
            return
        duration = time.monotonic() - start
        self._functions[name].batch_sizes.record(len(batch), duration)
        self._report(BatchReport(name, [start - x.since for x in batch], duration))
        for x, result in zip(batch, results, strict=True):
            x.future.set_result(result)
