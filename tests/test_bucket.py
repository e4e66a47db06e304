"""gs:// through an emulator of Google's storage."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize("script", ["bucket_models.py", "bucket_training.py"])
def test_in_a_bucket(tmp_path, script):
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = f"http://localhost:{port}"
    where = {
        "STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_CLOUD_PROJECT": "none", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / script), str(tmp_path), str(port)],
        env=os.environ | where, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "equal" in done.stdout, done.stdout + done.stderr
