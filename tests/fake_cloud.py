"""A Google Cloud project for the tests of launch/: a fake gcloud, with workers on this machine.

What runs on a worker is real (tmux, tpu_worker.sh) except for the Python that would install the
packages, and for `blip-jax`: a few lines of shell that a test writes.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = ["blip-jax", "train", "--config", "configs/pretrain.py:vit_l,v5p-64", "--workdir", "gs://b"]

PYTHON = """#!/bin/bash
case "$*" in
  "-m venv"*)
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    printf '#!/bin/bash\\nsource "$FAKE/training"\\n' >.venv/bin/blip-jax
    chmod +x .venv/bin/blip-jax ;;
  "-m pip install"*)
    echo "$HOSTNAME $*" >>"$FAKE/installed"
    [[ "$HOSTNAME" != *-w-"${BROKEN:-}" ]] || exit 9 ;;
esac
"""


class Cloud:
    """A fake project: its folder, and the environment in which the scripts are called."""

    def __init__(self, folder: pathlib.Path, sockets: str):
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in {
            "gcloud": (ROOT / "tests/fake_gcloud.sh").read_text("utf-8"),
            "python3.13": PYTHON,
            "sudo": "#!/bin/bash\nexit 1\n",
        }.items():
            (folder / "bin" / name).write_text(text, "utf-8")
            (folder / "bin" / name).chmod(0o755)
        (folder / "calls").touch()
        self.write("waits", "ACTIVE")
        self.write("training", "echo step 1; echo step 2")
        self.env = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "HOME": str(folder),
            "FAKE": str(folder),
            "SOCKETS": sockets,
            "WORKERS": "2",
            "NAME": "blip",
            "ZONE": "us-east5-a",
            "TYPE": "v5p-64",
            "POLL": "0.05",
            "EVERY": "0.05",
        }

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text + "\n", "utf-8")

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text("utf-8") if path.exists() else ""

    def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", ROOT / "launch" / script, *arguments],
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that was started with Ctrl-C ignored, as one in the background, stays so.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def call(self, script: str, *arguments: str, **env: str) -> tuple[int, str, str]:
        process = self.start(script, *arguments, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        """What was called, without the looks: "tpu-vm create", "ssh all start" and the like."""
        found = []
        for line in self.read("calls").splitlines():
            assert "--zone=us-east5-a" in line and line.endswith("--quiet")
            words = line.split()
            if words[3] == "ssh":
                worker = re.search(r"--worker=(\w+)", line)[1]
                verb = re.search(r"tpu_worker.sh (\w+)|(tar) -x", line)
                found.append(f"ssh {worker} {verb[1] or verb[2]}")
            elif words[3] != "describe":
                found.append(" ".join(words[2:4]))
        return found

    def options(self, sub_command: str) -> str:
        return next(line for line in self.read("calls").splitlines() if sub_command in line)

    def wait_for(self, name: str, text: str) -> None:
        for _ in range(300):
            if text in self.read(name):
                return
            time.sleep(0.05)
        raise AssertionError(f"no {text!r} in {name}: {self.read(name)!r}")


def project(folder: pathlib.Path) -> Iterator[Cloud]:
    """The body of a fixture: a project in `folder`, and nothing of it left running."""
    sockets = tempfile.mkdtemp(dir="/tmp")  # a socket's path has at most 107 characters
    cloud = Cloud(folder, sockets)
    yield cloud
    delete = ["compute", "tpus", "tpu-vm", "delete"]  # ends what runs on the workers
    subprocess.run(["bash", ROOT / "tests/fake_gcloud.sh", *delete], env=cloud.env, check=True)
    shutil.rmtree(sockets)
