"""One writer of a folder: held, refused, released, taken over when stale."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.lock import LOCK, Lock, folder_lock

spawn = multiprocessing.get_context("spawn")


def hold(folder, started, end):
    with folder_lock(folder, "train"):
        started.set()
        end.wait(60)


def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path):
    with folder_lock(tmp_path / "run", "train"):
        message = rf"run is in use by process {os.getpid()} on .* \(blip-jax train, since 20.*UTC\)"
        with pytest.raises(UserError, match=message), folder_lock(tmp_path / "run", "evaluate"):
            pass
        assert (tmp_path / "run" / LOCK).exists()  # the refused one removed nothing
    assert not (tmp_path / "run" / LOCK).exists()
    with folder_lock(tmp_path / "run", "evaluate"):
        pass


def test_the_lock_is_released_when_the_block_raises(tmp_path):
    with pytest.raises(KeyError), folder_lock(tmp_path, "train"):
        raise KeyError
    assert not (tmp_path / LOCK).exists()


def test_the_lock_is_released_when_its_heartbeats_have_ended(tmp_path):
    """On a busy machine the thread may end before `release` has looked at it."""
    lock = Lock(str(tmp_path), str(tmp_path / LOCK), "train", 60.0)
    lock.acquire()
    lock._released.set()
    lock._thread.join()
    lock.release()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_the_lock_made_and_nobody_filled_is_removed(tmp_path):
    for name in ("empty", "filled"):
        with pytest.raises(KeyError), folder_lock(tmp_path / name, "train"):
            if name == "filled":
                (tmp_path / name / "metrics.json").touch()
            raise KeyError
    assert os.listdir(tmp_path) == ["filled"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    started, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(tmp_path, started, end))
    process.start()
    assert started.wait(60)
    with pytest.raises(UserError, match=f"process {process.pid} "), folder_lock(tmp_path, "x"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / LOCK).exists()
    with folder_lock(tmp_path, "x"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_process_with_the_number_of_an_ended_one_does_not_hold_its_lock(tmp_path):
    values = {"id": "x", "host": socket.gethostname(), "pid": os.getpid(), "started": "1"}
    (tmp_path / LOCK).write_text(json.dumps(values))
    with folder_lock(tmp_path, "train"):
        pass


def test_the_lock_of_another_host_is_taken_over_without_heartbeats(tmp_path):
    values = {"id": "x", "host": "elsewhere", "pid": 1, "verb": "train", "heartbeats": 3}
    (tmp_path / LOCK).write_text(json.dumps(values))
    begin = time.monotonic()
    with folder_lock(tmp_path, "train", lease_seconds=0.5):
        assert time.monotonic() - begin >= 0.5
        assert json.loads((tmp_path / LOCK).read_text())["host"] == socket.gethostname()


def test_heartbeats_of_another_host_keep_its_lock(tmp_path, monkeypatch):
    started, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold_quickly, args=(tmp_path, started, end))
    process.start()
    assert started.wait(60)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    with pytest.raises(UserError, match="is in use"), folder_lock(tmp_path, "x", lease_seconds=2.0):
        pass
    end.set()
    process.join()
    assert process.exitcode == 0


def hold_quickly(folder, started, end):
    with folder_lock(folder, "train", lease_seconds=2.0):
        started.set()
        end.wait(60)


def test_a_damaged_lock_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_text("{")
    with folder_lock(tmp_path, "train"):
        pass


def test_of_several_contenders_for_a_stale_lock_one_wins(tmp_path):
    stale = {"id": "x", "host": socket.gethostname(), "pid": 2**22 + 1, "verb": "train"}
    (tmp_path / LOCK).write_text(json.dumps(stale))
    started, end = [spawn.Event() for _ in range(4)], spawn.Event()
    results = spawn.Queue()
    args = [(tmp_path, event, end, results) for event in started]
    processes = [spawn.Process(target=contend, args=arg) for arg in args]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    end.set()
    for process in processes:
        process.join()
    assert found == ["held", "refused", "refused", "refused"]


def contend(folder, started, end, results):
    try:
        with folder_lock(folder, "train"):
            results.put("held")
            end.wait(60)
    except UserError:
        results.put("refused")


@pytest.mark.parametrize("claimant", [{}, {"host": socket.gethostname(), "pid": 2**22 + 1}])
def test_a_claim_of_an_ended_process_is_removed(tmp_path, claimant):
    stale = {"id": "x", "host": socket.gethostname(), "pid": 2**22 + 1, "verb": "train"}
    (tmp_path / LOCK).write_text(json.dumps(stale))
    (tmp_path / f".incomplete-x{LOCK}").write_text(json.dumps(claimant))
    with folder_lock(tmp_path, "train"):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_claim_on_a_lock_that_was_replaced_changes_nothing(tmp_path):
    """A second process has read the stale lock, and claims it when the first has replaced it."""
    stale = {"id": "x", "host": socket.gethostname(), "pid": 2**22 + 1, "verb": "train"}
    with folder_lock(tmp_path, "train"):
        held = (tmp_path / LOCK).read_bytes()
        late = Lock(str(tmp_path), str(tmp_path / LOCK), "train", 1.0)
        assert not late._take_over(stale)
        assert (tmp_path / LOCK).read_bytes() == held
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_lock_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", full)
    with pytest.raises(UserError, match="cannot be written"), folder_lock(tmp_path / "a/b", "x"):
        pass
    assert not (tmp_path / "a").exists()
