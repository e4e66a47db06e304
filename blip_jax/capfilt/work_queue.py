"""Distributes shards among hosts through a shared folder, without a coordinator.

A host claims a shard by writing its name into `shards/NNNNN.json`, and keeps the claim by
increasing a counter there every few seconds. Other hosts take a claim over if its counter has not
changed for LEASE_SECONDS, or if it belongs to a process of their own machine that has ended.
Correctness does not depend on claims: a shard is done when its file exists, files are renamed when
complete, and every host writes the same bytes, so two hosts that work on one shard only waste time.
The clocks of different hosts are not compared.

A listing of all shards takes long where there are many. So a host lists them when it begins, and
again after LISTED_AFTER of the shards that it looked for were done by others. While other hosts
hold all that remain, it looks at WATCHED of these. tests/bench/scale.py counts what this costs.
"""

import concurrent.futures
import contextlib
import json
import os
import random
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from blip_jax.capfilt.storage import READERS, WORK
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write
from blip_jax.runtime.host import is_running, start_time

LEASE_SECONDS = 60.0  # without a heartbeat for this long, other hosts may claim the shard
HEARTBEATS_PER_LEASE = 4
LISTED_AFTER = 64
WATCHED = 16


class ShardQueue:
    """The shards of a scored dataset as one host sees them; a context manager.

    Args:
      paths: of all shards, in order.
      lease_seconds: see LEASE_SECONDS; the same on all hosts.
      folder: of the claims, in that of the shards.
    """

    def __init__(
        self, paths: list[epath.Path], lease_seconds: float = LEASE_SECONDS, folder: str = WORK
    ):
        self._paths, self._lease_seconds = paths, lease_seconds
        self._folder = paths[0].parent / folder
        self.owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._started = start_time(os.getpid())
        self._held: int | None = None
        self._heartbeats = 0
        self._last_seen: dict[int, tuple[str | None, float]] = {}  # by shard: text, time
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True)

    def __enter__(self) -> "ShardQueue":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *unused: Any) -> None:
        self._ended.set()
        self._thread.join()
        with self._lock:
            held, self._held = self._held, None
        if held is not None:  # released, so that other hosts need not wait
            with contextlib.suppress(OSError):
                self._file(held).unlink()

    def done(self) -> set[int]:
        """Returns the numbers of the shards that are written."""
        names = {path.name for path in self._paths[0].parent.iterdir()}
        return {number for number, path in enumerate(self._paths) if path.name in names}

    def begun(self) -> bool:
        """Returns whether a shard is written or claimed, by any host."""
        return bool(self.done()) or any(self._folder.glob("*.json"))

    def claim_shards(self, stop: Callable[[], bool]) -> Iterator[int]:
        """Yields shards that this host has claimed, until all shards are done on every host.

        Waits while other hosts hold all that remain.

        Args:
          stop: called before each shard and while waiting; True ends the iteration.
        """
        left = self._left()
        held: list[int] = []  # by other hosts
        done_by_others, pause = 0, self._lease_seconds / 30
        while not stop():
            number = next(left, None)
            if number is None:
                if not held:
                    return
                self._sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, self._lease_seconds / 10)
                left, held = iter(held[:WATCHED]), held[WATCHED:]
            elif self._is_done(number):
                done_by_others += 1
                if done_by_others == LISTED_AFTER:
                    left, held, done_by_others = self._left(), [], 0
            elif self._claim(number):
                yield number
                pause = self._lease_seconds / 30
            else:
                held.append(number)

    def _left(self) -> Iterator[int]:
        """Returns the shards that are not done, in the order in which this host tries them."""
        done, count = self.done(), len(self._paths)
        first = zlib.crc32(self.owner.encode()) % count  # hosts begin at different shards
        return (n for i in range(count) if (n := (first + i) % count) not in done)

    def finished(self, number: int, record: dict) -> None:
        """Writes the record of a shard that this host has completed."""
        with self._lock:
            self._held = None
            self._write(number, {"owner": self.owner, **record})

    def records(self) -> list[dict]:
        """Returns the record of each shard; {} if its host was killed before `finished`."""
        with concurrent.futures.ThreadPoolExecutor(READERS) as threads:
            return [record for _, record in threads.map(self._read, range(len(self._paths)))]

    def _claim(self, number: int) -> bool:
        text, claim = self._read(number)
        if text is not None and self._is_alive(number, text, claim):
            return False
        with self._lock:
            self._held = number
            self._write_heartbeat()
        self._sleep(0.01)  # of several hosts that write at the same time the last keeps it
        if self._read(number)[1].get("owner") == self.owner:
            return True
        with self._lock:
            self._held = None
        return False

    def _is_alive(self, number: int, text: str, claim: dict) -> bool:
        """Returns whether the owner of a claim is still running."""
        host, _, rest = str(claim.get("owner", "")).partition("/")
        process, started = rest.partition("/")[0], claim.get("started", "")
        if host == socket.gethostname() and not is_running(process, started):
            return False
        before, since = self._last_seen.get(number, (None, 0.0))
        if text != before:
            self._last_seen[number] = text, self._now()
            return True
        return self._now() - since < self._lease_seconds

    def _heartbeat(self) -> None:
        while not self._ended.wait(self._lease_seconds / HEARTBEATS_PER_LEASE):
            # Of any storage's errors: it may become available again.
            with self._lock, contextlib.suppress(Exception):
                if self._held is not None:
                    self._write_heartbeat()

    def _write_heartbeat(self) -> None:
        self._heartbeats += 1
        values = {"owner": self.owner, "started": self._started, "heartbeats": self._heartbeats}
        self._write(self._held, values)

    def _is_done(self, number: int) -> bool:
        return self._paths[number].exists()

    def _now(self) -> float:
        return time.monotonic()

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _file(self, number: int) -> epath.Path:
        return self._folder / f"{number:05d}.json"

    def _read(self, number: int) -> tuple[str | None, dict]:
        """Returns a shard's file as text (None if missing) and as values ({} if invalid)."""
        text = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            text = self._file(number).read_text()
            found = json.loads(text)
            return text, found if isinstance(found, dict) else {}
        return text, {}

    def _write(self, number: int, values: dict) -> None:
        try:
            with atomic_write(self._file(number)) as file:
                file.write(json.dumps(values))
        except FileNotFoundError:  # another host has finished and removed unfinished files
            if not self._folder.exists():
                raise UserError(f"{self._folder} was removed; run capfilt again") from None
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be written ({error}); check its permissions"
            ) from error
