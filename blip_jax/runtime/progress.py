"""How far a long piece of work is: a bar on a terminal, elsewhere a line every 30 seconds."""

from __future__ import annotations

import collections
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import tqdm

INTERVAL = 30.0  # seconds between lines
WINDOW = 10  # number of lines over which the rate is measured, so that a slow start is forgotten
WIDTH = 100  # width of a line

Item = TypeVar("Item")


class Progress:
    """A context manager that shows on stderr how much of `total` is done.

    Without a terminal a thread prints a line every 30 seconds, also while nothing moves:
    "prepare: 40/120 units (33%), 1.3 units/s, 01:02 left, rows 400,000". Work that ends earlier
    prints nothing.

    Args:
      description: the first word of each line.
      total: units of work in all.
      unit: name of one; an "s" is added for more.
      initial: units done before, which do not count for the rate.
      enabled: False shows nothing.
      interval: seconds between lines.
    """

    def __init__(
        self,
        description: str,
        total: int,
        unit: str,
        initial: int = 0,
        enabled: bool = True,
        interval: float = INTERVAL,
    ):
        self._description, self._total, self._unit = description, total, unit
        self._done, self._notes, self._interval = initial, "", interval
        self._bar = self._thread = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total, initial=initial, desc=description, unit=unit, dynamic_ncols=True
            )
        elif enabled:
            self._started = time.monotonic()
            self._marks = collections.deque([(self._started, initial)], WINDOW)
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._print_lines, daemon=True)
            self._thread.start()

    def update(self, count: int = 1, **notes: Any) -> None:
        """Adds units done; `notes`, names to values, are shown at the end of the line."""
        self._done += count
        self._notes = "".join(f", {name} {value}" for name, value in notes.items())
        if self._bar is not None:
            self._bar.set_postfix(notes, refresh=False)
            self._bar.update(count)

    def close(self) -> None:
        """Ends the bar or the lines; a second call does nothing."""
        bar, thread, self._bar, self._thread = self._bar, self._thread, None, None
        if bar is not None:
            bar.close()
        if thread is not None:
            self._ended.set()
            thread.join()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *unused: Any) -> None:
        self.close()

    def _print_lines(self) -> None:
        printed = False
        while not self._ended.wait(self._interval):
            printed = True
            print(self._line(time.monotonic()), file=sys.stderr, flush=True)
        if printed:
            seconds = time.monotonic() - self._started
            print(self._last_line(seconds), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        then, before = self._marks[0]
        self._marks.append((now, done := self._done))
        rate = (done - before) / max(now - then, 1e-9)
        line = self._share(done)
        if rate:
            left = max(self._total - done, 0) / rate
            line += f", {self._speed(rate)}, {tqdm.tqdm.format_interval(left)} left"
        return (line + self._notes)[:WIDTH]

    def _speed(self, rate: float) -> str:
        if rate < 1:
            return f"{1 / rate:.1f} s/{self._unit}"
        return f"{rate:,.{int(rate < 10)}f} {self._unit}s/s"

    def _last_line(self, seconds: float) -> str:
        interval = tqdm.tqdm.format_interval(seconds)
        return f"{self._share(self._done)} in {interval}{self._notes}"[:WIDTH]

    def _share(self, done: int) -> str:
        share = done / self._total if self._total else 1.0
        return f"{self._description}: {done:,}/{self._total:,} {self._unit}s ({share:.0%})"


def track(
    items: Iterable[Item], description: str, total: int, unit: str, enabled: bool = True
) -> Iterator[Item]:
    """Yields the items, and shows with `Progress` how many of `total` are done."""
    with Progress(description, total, unit, enabled=enabled) as progress:
        for item in items:
            yield item
            progress.update()
