"""Shards shared out among hosts through their folder alone: no coordinator, nothing to set up.

Each host takes a shard by writing its name into `shards/NNNNN.json`, and keeps it by counting up
there every few seconds. One whose count stands still for LIFETIME is taken over, as is one of a
process of this machine that is no more. None of this decides what is right: a shard is done when
its file is there, it is renamed whole, and whoever writes it writes the same bytes; two hosts at
one shard cost time alone. Clocks are not compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from blip_jax.capfilt.storage import INCOMPLETE, WORK
from blip_jax.runtime.errors import UserError

LIFETIME = 60.0  # seconds without a sign of life after which a shard is anybody's
BEATS = 4  # signs of life in that time


class Shards:
    """The shards of a scored dataset, as one of its hosts sees them; a context manager.

    Args:
      paths: of all shards, in order.
      lifetime: seconds; the same on all hosts.
    """

    def __init__(self, paths: list[epath.Path], lifetime: float = LIFETIME):
        self._paths, self._lifetime = paths, lifetime
        self._folder = paths[0].parent / WORK
        self.owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._held: int | None = None
        self._beats = 0
        self._signs: dict[int, tuple[str | None, float]] = {}  # a shard's text, and since when
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Shards":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *unused: Any) -> None:
        self._ended.set()
        self._thread.join()
        with self._lock:
            held, self._held = self._held, None
        if held is not None:  # given up: others need not wait
            with contextlib.suppress(OSError):
                self._file(held).unlink()

    def done(self) -> set[int]:
        """Numbers of the shards that are written."""
        names = {path.name for path in self._paths[0].parent.iterdir()}
        return {number for number, path in enumerate(self._paths) if path.name in names}

    def each(self, stop: Callable[[], bool]) -> Iterator[int]:
        """Shards for this host to do, until all are done; waits for those that others do.

        Args:
          stop: ends the iteration before the next one, or while waiting.
        """
        count = len(self._paths)
        first = zlib.crc32(self.owner.encode()) % count  # hosts begin at different places
        while len(done := self.done()) < count and not stop():
            order = [(first + i) % count for i in range(count)]
            taken = next((n for n in order if n not in done and self._take(n)), None)
            if taken is None:
                time.sleep(min(self._lifetime / 30, 2.0))
            else:
                yield taken

    def finished(self, number: int, record: dict) -> None:
        """Notes what is to be known of a shard that this host has written."""
        with self._lock:
            self._held = None
            self._write(number, {"owner": self.owner, **record})

    def records(self) -> list[dict]:
        """What `finished` noted of each shard; {} where its host died before it could."""
        return [self._read(number)[1] for number in range(len(self._paths))]

    def _take(self, number: int) -> bool:
        text, sign = self._read(number)
        if text is not None and self._alive(number, text, sign):
            return False
        with self._lock:
            self._held = number
            self._sign()
        time.sleep(0.01)  # another may have written at the same time: the last one has it
        if self._read(number)[1].get("owner") == self.owner:
            return True
        with self._lock:
            self._held = None
        return False

    def _alive(self, number: int, text: str, sign: dict) -> bool:
        """Whether the one that holds a shard still gives signs of life."""
        host, _, rest = sign.get("owner", "").partition("/")
        if host == socket.gethostname() and not running(rest.partition("/")[0]):
            return False
        before, since = self._signs.get(number, (None, 0.0))
        if text != before:
            self._signs[number] = text, time.monotonic()
            return True
        return time.monotonic() - since < self._lifetime

    def _beat(self) -> None:
        while not self._ended.wait(self._lifetime / BEATS):
            with self._lock, contextlib.suppress(OSError, UserError):  # it may come back
                if self._held is not None:
                    self._sign()

    def _sign(self) -> None:
        self._beats += 1
        self._write(self._held, {"owner": self.owner, "beats": self._beats})

    def _file(self, number: int) -> epath.Path:
        return self._folder / f"{number:05d}.json"

    def _read(self, number: int) -> tuple[str | None, dict]:
        """A shard's file as text, None where there is none, and as values, {} where it is torn."""
        text = None
        with contextlib.suppress(OSError, ValueError):
            text = self._file(number).read_text()
            return text, json.loads(text)
        return text, {}

    def _write(self, number: int, values: dict) -> None:
        text = json.dumps(values)
        try:
            if "://" in str(self._folder):  # an object is written whole
                self._file(number).write_text(text)
            else:
                unfinished = self._folder / f"{INCOMPLETE}{self.owner.replace('/', '-')}"
                unfinished.write_text(text)
                unfinished.replace(self._file(number))
        except OSError as error:
            raise UserError(f"{self._folder} cannot be written: {error}") from error


def running(process: str) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
