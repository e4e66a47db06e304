"""Lets the disk run full, or the permission to write be withdrawn, while each verb runs.

python tests/full_disk.py [VERB ...] [--losses 10] [--seed 0]      as root, on Linux

Full disk: each verb writes to a small file system in memory with more and more space left, until
it is enough. Permission: the process is halted at moments drawn by chance, all it has
written is made read-only, and it goes on. Each time it must end with one line and status 2, or with
status 0 and all its results; a file that was there before must keep its content; and the same
command with space and permission must complete what a run left alone gives.
"""

import argparse
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

import verb_runs

# Root without the right to write to what is read-only.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
# Bytes that are free, or parts of the whole output.
SPACES = (0, 5_000, 20_000, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
FULL = ("No space left", "disk is full", "no space left")
DENIED = ("Permission denied", "permission denied", "not permitted", "PERMISSION_DENIED")


class Runs:
    """Runs of one verb, of which most cannot write all."""

    def __init__(self, verb: verb_runs.Verb, folder: pathlib.Path, draw: random.Random):
        folder.mkdir()
        self.verb, self.draw = verb, draw
        self.log_file, whole = folder / "log", folder / "whole" / "out"
        whole.parent.mkdir()
        begun = time.monotonic()
        assert verb.start(whole, self.log_file).wait() == 0, self.log()
        self.seconds = time.monotonic() - begun
        self.wanted = verb_runs.content(whole)
        self.size = sum(p.stat().st_size for p in whole.parent.rglob("*") if p.is_file())
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.out, self.other = self.disk / "out", self.disk / "other"

    def fill(self, spaces: tuple = SPACES) -> int:
        """Runs on a disk with more and more space; returns how many runs had too little."""
        failed = 0
        with memory_disk(self.disk, 4 * self.size + (64 << 20)):
            self.other.write_text("here before")
            for free in spaces:
                bytes_free = int(free * self.size) if isinstance(free, float) else free
                with filled(self.disk, bytes_free):
                    status = self.verb.start(self.out, self.log_file).wait()
                if self.ended(status, FULL, f"with {bytes_free:,} bytes free"):
                    break
                failed += 1
            self.complete()
        return failed

    def deny(self, losses: int) -> int:
        """Takes the permission to write away again and again; returns how many runs failed."""
        refused = 0
        with memory_disk(self.disk, 4 * self.size + (64 << 20)):
            self.other.write_text("here before")
            for _ in range(losses):
                process = self.verb.start(self.out, self.log_file, BOUND)
                time.sleep(self.draw.uniform(0.3, 1) * self.seconds)
                process.send_signal(signal.SIGSTOP)
                with read_only(self.disk):
                    process.send_signal(signal.SIGCONT)
                    status = process.wait()
                if self.ended(status, DENIED, "without permission"):
                    self.complete()
                    remove(self.out)
                else:
                    refused += 1
            self.complete()
        return refused

    def ended(self, status: int, reasons: tuple[str, ...], how: str) -> bool:
        """Checks the end of a run; returns whether it had all it needed."""
        text = self.log()
        print(f"{self.verb.name} {how}: status {status}; {text.splitlines()[-1:]}", flush=True)
        assert self.other.read_text() == "here before"
        if status == 0:
            return True
        assert status == 2 and "Traceback" not in text, text
        lines = [x for x in text.splitlines() if any(reason in x for reason in reasons)]
        assert len(lines) == 1 and lines[0].startswith(f"blip-jax {self.verb.name}: "), text
        return False

    def complete(self) -> None:
        """Runs to the end, and compares with what was wanted."""
        if not self.verb.is_closed(self.out):
            status = self.verb.start(self.out, self.log_file).wait()
            assert status == 0, self.log()
        different = verb_runs.different(verb_runs.content(self.out), self.wanted)
        assert not different, f"{self.verb.name}: {different} are not those of a run left alone"

    def log(self) -> str:
        return self.log_file.read_text()


@contextlib.contextmanager
def memory_disk(folder: pathlib.Path, size: int) -> Iterator[None]:
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: pathlib.Path, free: int) -> Iterator[None]:
    """Leaves so many bytes free on the disk, in whole pages."""
    state = os.statvfs(folder)
    filler = folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_bsize - free))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(folder: pathlib.Path) -> Iterator[None]:
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)


def remove(path: pathlib.Path) -> None:
    subprocess.run(["rm", "-rf", str(path)], check=True)


def run(
    folder: pathlib.Path,
    names: list[str],
    losses: int,
    seed: int,
    records: int = 400,
    spaces: tuple = SPACES,
) -> None:
    """Fills the disk and withdraws the permission for each verb."""
    known = verb_runs.verbs(folder, records)
    for name in names or list(known):
        runs = Runs(known[name], folder / f"{name}-runs", random.Random(f"{seed} {name}"))
        full, denied = runs.fill(spaces), runs.deny(losses)
        print(
            f"{name}: {full} runs on a full disk and {denied} without permission ended with one "
            "line; what was completed equals a run left alone",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verbs", nargs="*", metavar="VERB", help="default: all")
    parser.add_argument("--losses", type=int, default=10, help="of permission, a verb")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run(pathlib.Path(tempfile.mkdtemp()), options.verbs, options.losses, options.seed)


if __name__ == "__main__":
    main()
