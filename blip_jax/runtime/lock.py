"""Locks, so that a folder or file has one writer at a time.

The holder creates the lock file exclusively and increments a number in it, the heartbeat. A lock is
stale when its process, on the same host, has ended, or when its number has not changed for
LEASE_SECONDS; a stale lock is taken over by the process that creates the claim on it. Clocks of
hosts are not compared. Object stores create exclusively as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import INCOMPLETE, remove_abandoned, remove_incomplete
from blip_jax.runtime.host import is_running, start_time

LOCK = ".lock"
LEASE_SECONDS = 60.0  # without a heartbeat, after which a lock of another host is stale
HEARTBEATS_PER_LEASE = 4


class InUseError(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def folder_lock(
    folder: str | os.PathLike,
    verb: str,
    run: Callable[[Callable[[], None]], None] = lambda acquire: acquire(),
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[None]:
    """Holds the lock of a folder, which is made if missing, for the duration of the block.

    What killed processes left unfinished in the folder is removed first.

    Args:
      folder: local or `gs://`.
      verb: what the holder does, for messages: "train".
      run: calls `acquire`. In a run of several processes this is `processes.run_on_main`: process 0
        holds the lock for all of them, and each must enter the block.
      lease_seconds: the same for all who use the folder.

    Raises:
      InUseError: another process holds the lock; it is named, with its host and start.
      UserError: the folder cannot be written.
    """
    path = os.fspath(folder)
    lock = Lock(path, f"{path.rstrip('/')}/{LOCK}", verb, lease_seconds)

    def acquire() -> None:
        lock.acquire()
        remove_incomplete(path)

    try:
        run(acquire)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def file_lock(file: str | os.PathLike, verb: str) -> Iterator[None]:
    """Holds the lock of a file, `FILE.lock` beside it, like `folder_lock`."""
    path = os.fspath(file)
    lock = Lock(path, path + LOCK, verb, LEASE_SECONDS)
    try:
        lock.acquire()
        remove_abandoned(path)
        yield
    finally:
        lock.release()


class Lock:
    """The lock of a folder or file; see `folder_lock`."""

    def __init__(self, target: str, path: str, verb: str, lease_seconds: float):
        """Takes what is locked, for messages, and the path of the lock file."""
        self._target = target
        self._files, self._path = fsspec.core.url_to_fs(path)
        self._lease_seconds = lease_seconds
        self._made: list[pathlib.Path] = []  # local folders that this made, innermost first
        self._values = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
            "verb": verb,
            "since": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "heartbeats": 0,
        }
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def acquire(self) -> None:
        """Creates the lock file, or takes over a stale one.

        Raises:
          InUseError: the lock is held. UserError: the lock file cannot be written.
        """
        try:
            folder = os.path.dirname(self._path)
            if "://" not in self._target:
                parents = (pathlib.Path(folder), *pathlib.Path(folder).parents)
                self._made = [path for path in parents if not path.exists()]
            self._files.makedirs(folder, exist_ok=True)
            while not self._create():
                holder = self._read()
                if holder and self._is_alive(holder):
                    raise InUseError(self._refusal(holder))
                if self._take_over(holder):
                    break
        except FileExistsError as error:
            raise UserError(f"{os.path.dirname(self._path)} is a file; give a folder") from error
        except OSError as error:
            self._remove_made()
            raise UserError(
                f"{self._target} cannot be written ({error.strerror or error}); free space or "
                "correct the permissions"
            ) from error
        self._thread.start()

    def release(self) -> None:
        """Removes the lock file if it is still this one's, and the empty folders that it made."""
        self._released.set()
        if self._thread.ident is not None:  # acquired; the thread may have ended in this moment
            self._thread.join()
            with contextlib.suppress(OSError):
                if self._read().get("id") == self._values["id"]:
                    self._files.rm(self._path)
            self._remove_made()

    def _remove_made(self) -> None:
        with contextlib.suppress(OSError):
            for made in self._made:
                made.rmdir()  # fails if it holds something

    def _create(self) -> bool:
        if self._read():  # not every object store supports exclusive creation
            return False
        return self._create_exclusively(self._path)

    def _create_exclusively(self, path: str) -> bool:
        try:
            self._files.pipe_file(path, self._bytes(), mode="create")
        except FileExistsError:
            return False
        return True

    def _take_over(self, stale: dict) -> bool:
        """Replaces a stale lock; returns whether this process holds it now.

        Only the process that creates the claim on this very lock may replace it.
        """
        folder, name = os.path.split(self._path)
        claim = f"{folder}/{INCOMPLETE}{stale.get('id', 'damaged')}{name}"
        if not self._create_exclusively(claim):
            claimant = self._read(claim)
            is_alive = claimant and self._is_alive(claimant, claim)
            time.sleep(0.05)  # a live one replaces the lock within this time
            if not is_alive and self._read(claim) == claimant:
                self._remove(claim)
            return False
        try:
            if self._read() != stale:
                return False
            self._files.pipe_file(self._path, self._bytes())
            return True
        finally:
            self._remove(claim)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # the holder of the lock may remove claims
            self._files.rm(path)

    def _is_alive(self, holder: dict, path: str = "") -> bool:
        """Returns whether the holder is running; of another host that takes a heartbeat."""
        if holder.get("host") == socket.gethostname():
            return is_running(holder.get("pid", 0), holder.get("started", ""))
        end = time.monotonic() + self._lease_seconds
        while time.monotonic() < end:
            time.sleep(self._lease_seconds / HEARTBEATS_PER_LEASE / 5)
            now = self._read(path)
            if now and now != holder:
                return True
        return False

    def _refusal(self, holder: dict) -> str:
        return (
            f"{self._target} is in use by process {holder.get('pid')} on {holder.get('host')} "
            f"(blip-jax {holder.get('verb')}, since {holder.get('since')}); wait until it ends, "
            "or choose another path"
        )

    def _beat(self) -> None:
        while not self._released.wait(self._lease_seconds / HEARTBEATS_PER_LEASE):
            with contextlib.suppress(Exception):  # of any storage; it may come back
                if self._read().get("id") == self._values["id"]:
                    self._values["heartbeats"] += 1
                    self._files.pipe_file(self._path, self._bytes())

    def _bytes(self) -> bytes:
        return json.dumps(self._values).encode()

    def _read(self, path: str = "") -> dict[str, Any]:
        """Returns the values of the lock file, or of a claim; {}: it is missing or half written."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._files.cat_file(path or self._path))
            return found if isinstance(found, dict) else {}
        return {}
