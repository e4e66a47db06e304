"""Processes that compile and are ended when the program is optimized."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from blip_jax.train.aot import compile, optimized

ROOT = pathlib.Path(__file__).parent.parent


def failing(number):
    raise compile.OutOfMemory("step", number)


def sleeping(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def test_a_child_returns_its_result_and_raises_its_errors():
    assert optimized.in_child(divmod, 7, 2) == (3, 1)
    with pytest.raises(compile.OutOfMemory) as caught:
        optimized.in_child(failing, 3)
    assert (caught.value.program, caught.value.peak_bytes) == ("step", 3)
    with pytest.raises(RuntimeError, match="the compiler's process ended with 5"):
        optimized.in_child(os._exit, 5)


def test_a_child_ends_with_its_parent(tmp_path):
    call = f"t.optimized.in_child(t.{sleeping.__name__}, {str(tmp_path / 'pid')!r})"
    line = f"import test_optimized as t; {call}"
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}"}
    parent = subprocess.Popen([sys.executable, "-c", line], cwd=ROOT, env=env)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    child = pathlib.Path("/proc") / (tmp_path / "pid").read_text()
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not child.exists():
            return
        time.sleep(0.05)
    raise AssertionError("the child goes on")
