"""Trainings of several processes on one machine: a tiny world, their start, what they left."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
from etils import epath

from blip_jax.checkpoints.workdir import load_state_items
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.tokenizer import train_wordpiece

HERE = pathlib.Path(__file__).parent
IMAGES, BATCH, STEPS = 24, 8, 20
CONFIG = """
from blip_jax import nn
from blip_jax.runtime.config import replace
from blip_jax.train import recipes
from blip_jax.train.optimizer import Constant


def get_config():
    model = nn.preset(
        "tiny",
        vit=dict(image_size=16, patch_size=8, width=16, depth=1, heads=2, drop_path=0.1),
        med=dict(width=16, depth=1, heads=2, mlp_dim=32, max_length=16, dropout=0.1),
        embed_dim=8, scan_unroll=1,
    )
    run = replace(
        recipes.{recipe}(), model=model, tokenizer="{folder}/tokenizer",
        data={"mixture": "{folder}/mixture.json"}, batch_size=8, steps=20, log_every=1,
        checkpoints={"every": 5, "keep_every": 10}, task={"max_length": 12},
        optimizer={"schedule": Constant(3e-4)},
    )
    if "{recipe}" != "captioning":
        itc = {"queue_size": 20, "alpha_warmup_steps": 4}
        run = replace(run, **{"task.itc": itc, "task.itm": {"group_size": 2}})
    if "{recipe}" == "retrieval":
        own = {"dataset": "{dataset}", "split": "train", "every": 10, "limit": 8}
        run = replace(run, eval=own | {"allow_training_images": True}, task={"rerank_k": 2})
    return run
"""


def build(folder) -> pathlib.Path:
    """24 images, a mixture of them, a tokenizer of their texts, and three configs."""
    folder = pathlib.Path(folder)
    shapes = ShapesConfig(kind="human", train=IMAGES, val=0, test=0)
    dataset = prepare(str(folder), shapes)
    save_mixture(str(folder / "mixture.json"), [Component("human", dataset)])
    texts = [text for i in range(IMAGES) for text in make_record(i, "train", shapes)["texts"]]
    train_wordpiece(texts, str(folder / "tokenizer"), 120)
    for recipe in ("pretraining", "captioning", "retrieval"):
        text = CONFIG.replace("{folder}", str(folder)).replace("{recipe}", recipe)
        text = text.replace("{dataset}", dataset)
        (folder / f"{recipe}.py").write_text(text)
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """This process's, but for the number of CPU devices."""
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": path}


def start(folder, runs, *, count=2, devices=4, pause=0.0, slurm=False) -> list[subprocess.Popen]:
    """Starts `runs`, flags of `blip-jax train`, one after the other on `count` processes.

    Args:
      folder: for what they print and see.
      pause: seconds a batch, so that a run lasts.
      slurm: they find each other by SLURM's variables, not by flags.
    """
    folder = pathlib.Path(folder)
    (folder / "seen").mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(
        json.dumps({"runs": runs, "seen": str(folder / "seen"), "pause": pause})
    )
    port, processes = free_port(), []
    for number in range(count):
        argv = [sys.executable, str(HERE / "distributed_run.py"), str(folder / "jobs.json")]
        own = environment(devices)
        if slurm:
            own |= {
                "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count),
                "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number),
                "JAX_COORDINATOR_PORT": str(port),
            }  # fmt: skip
        else:
            argv += ["--coordinator", f"localhost:{port}", "--processes", str(count)]
            argv += ["--process", str(number)]
        with (folder / f"printed-{number}").open("w") as printed:
            processes.append(
                subprocess.Popen(argv, env=own, stdout=printed, stderr=subprocess.STDOUT)
            )
    return processes


def wait_for_step(workdir, step: int, processes) -> None:
    """Until the run has reported on `step`."""
    file = pathlib.Path(workdir) / "metrics.jsonl"
    while not file.exists() or len(file.read_text().splitlines()) < step:
        assert all(process.poll() is None for process in processes), "ended before its time"
        time.sleep(0.02)


def end(processes, seconds: float = 1800) -> list[int]:
    """Their exit statuses; none of them outlives this."""
    try:
        last = time.monotonic() + seconds
        return [process.wait(max(last - time.monotonic(), 1)) for process in processes]
    finally:
        kill(processes)


def kill(processes) -> None:
    for process in processes:
        process.kill()
        process.wait()


def printed(folder) -> str:
    return "\n".join(file.read_text() for file in sorted(pathlib.Path(folder).glob("printed-*")))


def reports(workdir) -> list[dict]:
    """The run's reports but for its speed."""
    lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if not k.startswith("images/s")} for line in found]


def seen(*folders) -> dict[int, list[int]]:
    """Groups of the rows of every batch, as they were last trained on."""
    lines = []
    for folder in folders:
        for file in (pathlib.Path(folder) / "seen").glob("*.jsonl"):
            texts = file.read_text().split("\n")[:-1]  # a kill may cut the last
            lines += [json.loads(text) for text in texts]
    batches: dict[int, dict[int, int]] = {}
    for _, number, rows, groups in sorted(lines):
        batches.setdefault(number, {}).update(zip(rows, groups, strict=True))
    return {
        number: [group for _, group in sorted(batch.items())]
        for number, batch in sorted(batches.items())
    }


def assert_each_once(batches: dict[int, list[int]]) -> None:
    """Every batch is whole, and an epoch has every image once."""
    assert list(batches) == list(range(len(batches)))
    assert all(len(batch) == BATCH for batch in batches.values())
    groups = [group for batch in batches.values() for group in batch]
    whole = set(groups[:IMAGES])
    assert len(whole) == IMAGES
    for first in range(0, len(groups), IMAGES):
        epoch = groups[first : first + IMAGES]
        assert len(set(epoch)) == len(epoch) and set(epoch) <= whole


def assert_same_state(workdir, other) -> None:
    """Their newest checkpoints hold the same, bit for bit."""
    names = ("step", "params", "extra", "opt_state")
    states = [load_state_items(str(path), names)[0] for path in (workdir, other)]
    leaves = [jax.tree_util.tree_leaves_with_path(state) for state in states]
    for (path, got), (_, want) in zip(*leaves, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=jax.tree_util.keystr(path))
