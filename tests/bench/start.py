"""How long blip_jax takes to start: imports, help, and the first caption of a fresh process.

    python tests/bench/start.py [--model vit_b] [--image-size 384] [--turns 3]

Prints the least and the median of fresh processes. Captions are beam search with 3 beams of one
image, from a Hugging Face folder with random weights: with an empty cache of compiled programs,
with the cache that this has left, and by `transformers`; each phase in wall seconds, and all phases
in CPU seconds. Without the `torch` extra they are left out.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import peer_works
from peer_works import ROOT, Task

IMPORT = "from blip_jax import models"
PHASES = ("imports", "load", "first caption", "second caption")


def seconds(argv: list, **options) -> float:
    start = time.perf_counter()
    subprocess.run([str(x) for x in argv], check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - start


def import_time() -> float:
    """Returns the seconds that `python -X importtime` states for IMPORT in all."""
    argv = [sys.executable, "-X", "importtime", "-c", IMPORT]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stderr.splitlines()
    rows = (re.fullmatch(r"import time: +\d+ \| +(\d+) \| blip_jax(\.models)?", x) for x in lines)
    return sum(int(row[1]) for row in rows if row) / 1e6


def show(title: str, values: list[float]) -> None:
    print(f"| {title} | {min(values):.2f} | {statistics.median(values):.2f} |", flush=True)


def worker(side: str, task: Task) -> None:
    """Prints the seconds of each phase, and the CPU seconds of all."""
    marks = [float(os.environ["STARTED"])]
    if side == "ours":
        import blip_jax.models  # noqa: F401

        marks.append(time.time())
        work, _ = peer_works.ours_beam(task)
    else:
        import torch  # noqa: F401
        import transformers

        transformers.BlipForConditionalGeneration  # noqa: B018  imported when named
        marks.append(time.time())
        work, _ = peer_works.theirs_beam(task)
    for _ in range(2):
        marks.append(time.time())
        work()
    spans = [after - before for before, after in itertools.pairwise([*marks, time.time()])]
    print(json.dumps([*spans, time.process_time()]))


def first_captions(args) -> None:
    """Prints a table of the phases of a process."""
    print(f"| | {' | '.join(PHASES)} | CPU s of all |\n|---|{'---|' * (len(PHASES) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        world, cache = pathlib.Path(folder), pathlib.Path(folder) / "cache"
        peer_works.build_world(world, args.model, args.image_size, 0)
        rows = {"blip_jax, empty cache": [], "blip_jax, warm cache": [], "transformers": []}
        for _ in range(args.turns):
            shutil.rmtree(cache, ignore_errors=True)
            for title, found in rows.items():
                side = "theirs" if title == "transformers" else "ours"
                argv = [sys.executable, __file__, "--worker", side, "--world", folder]
                argv += ["--image-size", str(args.image_size)]
                env = {"JAX_COMPILATION_CACHE_DIR": str(cache), "STARTED": str(time.time())}
                env["HF_HUB_OFFLINE"], env["OMP_WAIT_POLICY"] = "1", "PASSIVE"
                out = subprocess.run(
                    argv, env=os.environ | env, check=True, stdout=subprocess.PIPE, text=True
                )
                found.append(json.loads(out.stdout.splitlines()[-1]))
        for title, found in rows.items():
            middles = [f"{statistics.median(x):.2f}" for x in zip(*found, strict=True)]
            print(f"| {title} | {' | '.join(middles)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("vit_b", "small"), default="vit_b")
    parser.add_argument("--image-size", type=int, default=384)
    parser.add_argument("--turns", type=int, default=3)
    for name in ("--worker", "--world"):
        parser.add_argument(name, help="of a worker; not for use by hand")
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, Task(pathlib.Path(args.world), 1, args.image_size, args.model))
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    help_of = [sys.executable, "-m", "blip_jax", "--help"]
    print("| wall seconds | least | median |\n|---|---|---|")
    for title, measure in (
        (f"`python -X importtime -c '{IMPORT}'`, as it says", import_time),
        (f"`python -c '{IMPORT}'`, the process", lambda: seconds([sys.executable, "-c", IMPORT])),
        ("`blip-jax --help`", lambda: seconds(help_of)),
        ("`blip-jax caption --help`", lambda: seconds([*help_of[:-1], "caption", "--help"])),
    ):
        measure()  # writes the byte code
        show(title, [measure() for _ in range(5)])
    if importlib.util.find_spec("transformers"):
        print()
        first_captions(args)


if __name__ == "__main__":
    main()
