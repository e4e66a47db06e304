"""Verbs as one of several processes, by the command line; notes which pairs each step was of.

distributed_run.py JOBS.json [--coordinator HOST:PORT --processes N --process I]

JOBS.json: {"runs": [[argument of `blip-jax`, …], …], "seen": folder, "pause": seconds a batch}.
Each process that trains writes a file in `seen`: lines [time, number of the batch, its rows, their
groups].
"""

import json
import os
import pathlib
import sys
import time

from blip_jax.cli.main import main
from blip_jax.train import setup


def watched(jobs):
    """`train_batches` that notes what it gives, and takes its time."""
    make = setup.train_batches

    def batches(*args, start, rows, **settings):
        file = pathlib.Path(jobs["seen"]) / f"{os.getpid()}.jsonl"
        for number, batch in enumerate(make(*args, start=start, rows=rows, **settings), start):
            time.sleep(jobs.get("pause", 0))
            line = [time.time(), number, rows.tolist(), batch["group"].tolist()]
            with file.open("a") as opened:
                opened.write(json.dumps(line) + "\n")
            yield batch

    return batches


def run(jobs, flags):
    setup.train_batches = watched(jobs)
    for argv in jobs["runs"]:
        verb = ["train"] if argv[0].startswith("-") else []
        if status := main([*verb, *argv, *flags]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(run(json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2:]))
