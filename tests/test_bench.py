"""The benchmarks of tests/bench run: at tiny sizes, whose times mean nothing."""

import os
import pathlib
import subprocess
import sys

import pytest

BENCH = pathlib.Path(__file__).parent / "bench"


def run(*argv) -> str:
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    done = subprocess.run([str(x) for x in argv], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.name)
def test_scripts_compile(path):
    compile(path.read_text("utf-8"), str(path), "exec")


@pytest.mark.slow
def test_peers_agree():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    argv = ["embed", "--model", "small", "--image-size", "32", "--batch", "2", "--turns", "1"]
    assert "| embed |" in run(sys.executable, BENCH / "peers.py", *argv)


@pytest.mark.slow
def test_gpu_script_is_rehearsed():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    printed = run("env", f"PYTHON={sys.executable}", BENCH / "gpu.sh", "--rehearse", "captions")
    assert "blip_jax" in printed and "failed" not in printed
