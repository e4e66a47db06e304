"""gs:// through an emulator of Google's storage."""

import pathlib
import subprocess
import sys

import bucket
import pytest

HERE = pathlib.Path(__file__).parent
NAMES = ("models", "training", "imports", "capfilt")


@pytest.fixture(scope="module")
def environment():
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    with bucket.bucket() as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_in_a_bucket(tmp_path, environment, name):
    """In a process of its own: the libraries look for the bucket when they are first used."""
    done = subprocess.run(
        [sys.executable, str(HERE / f"bucket_{name}.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "equal" in done.stdout, done.stdout + done.stderr
