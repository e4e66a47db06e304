"""Simulates CapFilt of very many images on very many hosts: requests, waiting, failures, time.

python tests/bench/scale.py --rows 1e9 --hosts 1000 --rows-per-second 100 [--shard-rows 10240]

The hosts run the program's own queue of shards (`capfilt.work_queue.ShardQueue`) on a storage that
is simulated: every request is counted and takes its time. Hosts differ in speed, some are
stragglers, and all fail now and then, lose the shard at which they work, and are replaced.
"""

import argparse
import collections
import heapq
import random
import threading

import numpy as np
from etils import epath

from blip_jax.capfilt import work_queue
from blip_jax.capfilt.work_queue import LEASE_SECONDS, ShardQueue

REQUEST_SECONDS = 0.03  # for one small object
PAGE, PAGE_SECONDS = 1000, 0.15  # names in a page of a listing
STRAGGLERS, SLOWER = 0.01, 5.0  # share of hosts, and how much slower they are
RESTART_SECONDS = 300.0  # until a failed host is replaced and has loaded its models
HEARTBEAT_SECONDS = LEASE_SECONDS / work_queue.HEARTBEATS_PER_LEASE


class Clock:
    """Virtual time: of all waiting threads the one that is due first runs, alone."""

    def __init__(self):
        self.now = 0.0
        self._waiting: list[tuple[float, int, threading.Semaphore]] = []
        self._count = 0
        self._idle = threading.Semaphore(0)

    def sleep(self, seconds: float) -> None:
        turn = threading.Semaphore(0)
        self._count += 1
        heapq.heappush(self._waiting, (self.now + seconds, self._count, turn))
        self._idle.release()
        turn.acquire()

    def run(self, processes: list) -> None:
        """Runs functions until all have ended."""
        for process in processes:
            threading.Thread(target=self._process, args=(process,), daemon=True).start()
            self._idle.acquire()
        while self._waiting:
            self.now, _, turn = heapq.heappop(self._waiting)
            turn.release()
            self._idle.acquire()

    def _process(self, process) -> None:
        self.sleep(0.0)
        process()
        self._idle.release()


class Storage:
    """Which shards are done, who claims them, and how many requests there were of each kind."""

    def __init__(self, shards: int, clock: Clock):
        self.clock = clock
        self.done = bytearray(shards)
        self.claims: dict[int, tuple[str, float, list[float]]] = {}
        self.requests: collections.Counter = collections.Counter()


class Snapshot:
    """The result of a listing: which shards were done."""

    def __init__(self, done: bytearray):
        self._done = bytes(done)

    def __contains__(self, number: int) -> bool:
        return bool(self._done[number])


class SimulatedQueue(ShardQueue):
    """A host's queue whose files are in a `Storage`, and whose time is a `Clock`'s."""

    def __init__(self, paths: list[epath.Path], storage: Storage, name: str):
        super().__init__(paths)
        self.owner, self._storage = name, storage
        self.ended: list[float] = []  # when the host failed
        self._late = 0.0  # seconds of requests since the last sleep

    def done(self) -> Snapshot:
        pages = -(-len(self._paths) // PAGE)
        self._storage.requests["pages of listings"] += pages
        self._sleep(pages * PAGE_SECONDS)
        return Snapshot(self._storage.done)

    def _is_done(self, number: int) -> bool:
        self._request("looks for a shard")
        return bool(self._storage.done[number])

    def _read(self, number: int) -> tuple[str | None, dict]:
        self._request("reads of a claim")
        if number not in self._storage.claims:
            return None, {}
        owner, since, ended = self._storage.claims[number]
        until = ended[0] if ended else self._storage.clock.now
        return f"{owner} {int((until - since) / HEARTBEAT_SECONDS)}", {"owner": owner}

    def _write(self, number: int, values: dict) -> None:
        self._request("writes of a claim or record")
        self._storage.claims[number] = self.owner, self._storage.clock.now, self.ended

    def _request(self, kind: str) -> None:
        self._storage.requests[kind] += 1
        self._late += REQUEST_SECONDS

    def _now(self) -> float:
        return self._storage.clock.now

    def _sleep(self, seconds: float) -> None:
        late, self._late = self._late, 0.0
        self._storage.clock.sleep(seconds + late)


def simulate(args: argparse.Namespace) -> dict[str, float]:
    """Returns counts of requests, hours and shares of a run."""
    rng = np.random.default_rng(0)
    random.seed(0)  # of the pauses in `claim_shards`
    shards = -(-int(args.rows) // args.shard_rows)
    clock = Clock()
    storage = Storage(shards, clock)
    paths = [epath.Path(f"scores/{number}") for number in range(shards)]
    totals: collections.Counter = collections.Counter()
    ends = []

    def host(number: int, speed: float, seed: int) -> None:
        own = np.random.default_rng(seed)
        life = 0
        while True:
            queue = SimulatedQueue(paths, storage, f"host{number}-{life}/1/x")
            fails = clock.now + own.exponential(args.hours_between_failures * 3600)
            for shard in queue.claim_shards(lambda: False):
                seconds = args.shard_rows / speed * own.lognormal(0, 0.1)
                if clock.now + seconds > fails:
                    clock.sleep(max(0.0, fails - clock.now))
                    queue.ended.append(clock.now)
                    totals["failures"] += 1
                    clock.sleep(RESTART_SECONDS)
                    break
                clock.sleep(seconds)
                storage.requests["heartbeats"] += int(seconds / HEARTBEAT_SECONDS)
                totals["seconds of work"] += seconds
                totals["shards done twice"] += storage.done[shard]
                storage.done[shard] = 1
                storage.requests["shards written"] += 1
                queue.finished(shard, {})
            else:
                ends.append(clock.now)
                return
            life += 1

    speeds = args.rows_per_second * rng.lognormal(0, 0.05, args.hosts)
    speeds[: round(STRAGGLERS * args.hosts)] /= SLOWER
    clock.run([lambda n=n: host(n, speeds[n], n) for n in range(args.hosts)])
    assert all(storage.done)
    hours = max(ends) / 3600
    best = args.rows / speeds.sum() / 3600
    return {
        "shards": shards,
        "hours": hours,
        "hours if nothing failed or waited": best,
        "ratio": hours / best,
        "failures": totals["failures"],
        "shards done twice": totals["shards done twice"],
        "requests a second, mean": sum(storage.requests.values()) / max(ends),
        "requests a shard": sum(storage.requests.values()) / shards,
        "hours of metadata, by formula": shards * 4 * REQUEST_SECONDS / work_queue.READERS / 3600,
        **{f"requests: {kind}": count for kind, count in storage.requests.most_common()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rows-per-second", type=float, default=100.0, help="of a host")
    parser.add_argument("--shard-rows", type=int, default=10_240)
    parser.add_argument("--hours-between-failures", type=float, default=24.0, help="of a host")
    for name, value in simulate(parser.parse_args()).items():
        print(f"{name:40} {value:,.2f}" if isinstance(value, float) else f"{name:40} {value:,}")


if __name__ == "__main__":
    main()
