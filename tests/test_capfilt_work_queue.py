"""Hosts that share the shards of a dataset through its folder."""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from blip_jax.capfilt.storage import WORK
from blip_jax.capfilt.work_queue import ShardQueue

sys.path.insert(0, str(pathlib.Path(__file__).parent / "bench"))
import scale  # noqa: E402

COUNT = 6
SOON = 1.0  # a lease in seconds


@pytest.fixture
def paths(tmp_path):
    return [epath.Path(tmp_path) / f"shard-{number}" for number in range(COUNT)]


def work(paths, done, pause=0.02, lease_seconds=SOON):
    """What a host does."""
    with ShardQueue(paths, lease_seconds) as shards:
        for number in shards.claim_shards(lambda: False):
            time.sleep(pause)
            paths[number].write_text("rows")
            done.append(number)
            shards.finished(number, {"rows": 1})


def write(paths, number, owner, heartbeats=1, **more):
    folder = paths[0].parent / WORK
    folder.mkdir(exist_ok=True)
    file = folder / f"{number:05d}.json"
    file.write_text(json.dumps({"owner": owner, "heartbeats": heartbeats, **more}))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_host_does_them_all_and_notes_what_it_did(paths):
    done = []
    work(paths, done)
    assert sorted(done) == list(range(COUNT))
    with ShardQueue(paths) as shards:
        records = shards.records()
        assert list(shards.claim_shards(lambda: False)) == []
    assert [record["rows"] for record in records] == [1] * COUNT
    assert {record["owner"].split("/")[0] for record in records} == {socket.gethostname()}


def test_hosts_at_the_same_time_share_them(paths):
    done = [[], [], []]
    hosts = [threading.Thread(target=work, args=(paths, own, 0.1, 30)) for own in done]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join(timeout=30)
    assert sorted(sum(done, [])) == list(range(COUNT))
    assert all(done)


def test_what_a_dead_process_of_this_machine_held_is_free_at_once(paths):
    for number in range(COUNT):
        write(paths, number, f"{socket.gethostname()}/{ended_process()}/abc")
    begun, done = time.monotonic(), []
    work(paths, done, 0, lease_seconds=100)
    assert len(done) == COUNT and time.monotonic() - begun < 10


def test_what_an_earlier_process_with_a_number_in_use_held_is_free_at_once(paths):
    for number in range(COUNT):
        write(paths, number, f"{socket.gethostname()}/{os.getpid()}/abc", started="1")
    begun, done = time.monotonic(), []
    work(paths, done, 0, lease_seconds=100)
    assert len(done) == COUNT and time.monotonic() - begun < 10


def test_what_another_host_holds_is_left_to_it_while_it_gives_signs(paths):
    """It is taken over when the lease has passed since the last one."""
    stopped, taken = threading.Event(), []
    write(paths, 3, "elsewhere/1/abc")

    def other():
        for heartbeats in range(2, 12):
            time.sleep(SOON / 5)
            write(paths, 3, "elsewhere/1/abc", heartbeats)
        stopped.set()

    thread = threading.Thread(target=other)
    thread.start()
    last = 0.0
    with ShardQueue(paths, SOON) as shards:
        for number in shards.claim_shards(lambda: False):
            if number == 3:
                assert stopped.is_set()
                last = time.monotonic()
            paths[number].write_text("rows")
            taken.append(number)
            shards.finished(number, {})
    thread.join()
    assert taken[-1] == 3 and len(taken) == COUNT and last


def test_it_keeps_what_it_works_at_for_long(paths):
    """Signs of life go on while a shard lasts for more than a lease."""
    done = [[], []]
    hosts = [threading.Thread(target=work, args=(paths[:2], own, 2 * SOON)) for own in done]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join(timeout=30)
    assert sorted(done[0] + done[1]) == [0, 1]


def test_it_stops_when_asked_and_gives_back_what_it_held(paths):
    with ShardQueue(paths, 100) as shards:
        number = next(shards.claim_shards(lambda: False))
        file = paths[0].parent / WORK / f"{number:05d}.json"
        assert file.exists()
    assert not file.exists()
    for number in range(COUNT):
        write(paths, number, "elsewhere/1/abc")
    asked = []
    with ShardQueue(paths, 0.3) as shards:
        assert list(shards.claim_shards(lambda: len(asked) > 2 or asked.append(1))) == []


def test_a_torn_sign_is_waited_for_no_longer_than_others(paths):
    write(paths, 0, "elsewhere/1/abc")
    (paths[0].parent / WORK / "00000.json").write_text('{"own')
    done = []
    work(paths, done, 0)
    assert len(done) == COUNT


def test_what_many_hosts_ask_of_the_storage():
    """Of thirty simulated hosts some fail; a host lists the shards a few times, however many."""
    for rows in (60_000, 240_000):
        found = scale.simulate(
            argparse.Namespace(
                rows=rows,
                hosts=30,
                shard_rows=200,
                rows_per_second=10.0,
                hours_between_failures=1.0,
            )
        )
        assert found["shards"] == rows / 200
        assert found["failures"] and not found["shards done twice"]
        assert found["requests: shards written"] == found["shards"]
        # A claim is read twice and written twice; the rest is of hosts that meet or wait.
        assert found["requests a shard"] < 60
        lives = 30 + found["failures"]
        assert (
            lives <= found["requests: pages of listings"] / -(-found["shards"] // 1000) < 5 * lives
        )
