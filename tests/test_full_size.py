"""Checks at full size, each in a process of its own with a single device."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent


def test_hugging_face(full):
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(TESTS / "full_size_huggingface.py"), *(["--full"] if full else [])]
    flags = "--xla_force_host_platform_device_count=1"
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags, "NPROC": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
