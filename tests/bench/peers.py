"""blip_jax beside what else does the same work, on the same weights and inputs, in turns.

    python tests/bench/peers.py [WORK …] [--model vit_b] [--image-size 384] [--turns 3]
    python tests/bench/peers.py train-step --original CHECKOUT --original-python PYTHON

WORK is one of
    caption-beam, caption-nucleus, embed
    match        16 texts an image as the peer's model is called, which encodes it for each of them
    match-parts  the same by parts of the peer's model, so that an image is encoded once
    capfilt      a text written, this and a web text scored, by parts of the peer's models
    train-step   of pre-training

The peer is `transformers`; of train-step it is BLIP's original code, in a checkout of
salesforce/BLIP, run by a Python that has transformers 4.25.1, timm 0.4.12, fairscale 0.4.4 and
PyTorch. First the results of both sides are compared; then they take turns, each in a process that
lives through all of them. Printed are medians (in brackets: the least) of a turn's CPU seconds, its
wall seconds, ratios of the peer's by ours turn by turn (above 1: blip_jax is faster), and the peak
memory in turns. Texts are forced to 20 tokens, as random weights end none. Needs the `torch` extra;
all is float32.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

import numpy as np
import peer_steps
import peer_works
from turn_taking import Worker, ratios, serve, take_turns

HERE = pathlib.Path(__file__).resolve().parent
BATCHES = {
    "caption-beam": 4, "caption-nucleus": 4, "embed": 4, "match": 1, "match-parts": 2,
    "capfilt": 4, "train-step": 4,
}  # fmt: skip
OURS = {**peer_works.OURS, "train-step": peer_steps.ours}
# PyTorch's threads otherwise spin while they wait, which counts as CPU time.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "BLIP_JAX_CACHE": ""}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as blip-jax sets it for itself
# Losses of the first step, whose weights, dropout and negatives are drawn; goldens say the rest.
TOLERANCES = {"losses": 0.15}
TOLERANCE = 1e-3
HEADER = """
| | blip_jax | the peer | ratio (quartiles) | wall s | ratio | peak MiB | batch, turns |
|---|---|---|---|---|---|---|---|"""


def start_workers(work: str, args, world: pathlib.Path) -> list[Worker]:
    """Starts ours, then the peer's."""
    given = [work, "--world", world, "--model", args.model, "--image-size", args.image_size]
    given += ["--batch", args.batch or BATCHES[work]]
    ours = [sys.executable, HERE / "peers.py", *given, "--worker"]
    theirs = [*ours, "theirs"]
    if work == "train-step":
        theirs = [args.original_python, HERE / "original_step.py", args.original, *given[3:]]
        if args.model == "small":
            theirs += ["--small", json.dumps(peer_works.SMALL)]
    huge = {"ours": (HUGE_PAGES, {}), "both": (HUGE_PAGES,) * 2, "neither": ({}, {})}
    pages = zip(([*ours, "ours"], theirs), huge[args.huge_pages], strict=True)
    return [Worker(argv, ENVIRONMENT | own) for argv, own in pages]


def largest_difference(work: str, workers: list[Worker], world: pathlib.Path) -> float:
    """Returns it, in all results of both sides.

    Raises:
      SystemExit: the sides did not do the same work.
    """
    ours, theirs = (w.results(world / f"{i}.npz") for i, w in enumerate(workers))
    largest = 0.0
    for name, want in theirs.items():
        found = np.abs(np.asarray(ours[name], float) - want).max()
        if not found <= TOLERANCES.get(name, TOLERANCE) * max(1, np.abs(want).max()):
            raise SystemExit(f"{work}: {name} differs by {found}:\n{ours[name]}\n{want}")
        largest = max(largest, found)
    return largest


def compare(work: str, args) -> str:
    """Returns a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        world, batch = pathlib.Path(folder), args.batch or BATCHES[work]
        if work != "train-step":
            photos = batch if work == "capfilt" else 0
            peer_works.build_world(world, args.model, args.image_size, photos)
        workers = start_workers(work, args, world)
        difference = largest_difference(work, workers, world)
        times = take_turns(workers, args.turns)
        for worker in workers:
            worker.end()
    cpu, wall = ([[getattr(t, kind) for t in turns] for turns in times] for kind in ("cpu", "wall"))
    shown = [f"{statistics.median(x):.2f} ({min(x):.2f})" for x in cpu]
    low, middle, high = ratios(*reversed(cpu))
    walls = " / ".join(f"{statistics.median(x):.2f}" for x in wall)
    peaks = " / ".join(f"{worker.peak:,.0f}" for worker in workers)
    first = " / ".join(f"{worker.first_peak:,.0f}" for worker in workers)
    print(f"{work}: largest difference {difference:.1e}; peak MiB at the start {first}")
    cells = [
        work, *shown, f"**{middle:.2f}** ({low:.2f}, {high:.2f})", walls,
        f"{ratios(*reversed(wall))[1]:.2f}", peaks, f"{batch}, {args.turns}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(BATCHES)}")
    parser.add_argument("--model", choices=("vit_b", "small"), default="vit_b")
    parser.add_argument("--image-size", type=int, default=0, help="0: 384, or 224 of train-step")
    parser.add_argument("--batch", type=int, default=0, help="images; 0: as many as WORK has")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--huge-pages", choices=("ours", "both", "neither"), default="ours",
        help="whose memory is in huge pages, which blip-jax asks for and the peers do not",
    )  # fmt: skip
    parser.add_argument("--original", type=pathlib.Path, help="checkout of salesforce/BLIP")
    parser.add_argument("--original-python", default=sys.executable)
    for name in ("--worker", "--world"):
        parser.add_argument(name, help="of a worker; not for use by hand")
    args = parser.parse_args()
    if args.worker:
        (work,) = args.works
        task = peer_works.Task(pathlib.Path(args.world), args.batch, args.image_size, args.model)
        make = (OURS if args.worker == "ours" else peer_works.THEIRS)[work]
        return serve(lambda: make(task))
    os.environ |= ENVIRONMENT
    works = args.works or [work for work in BATCHES if work != "train-step" or args.original]
    size = args.image_size
    print(HEADER)
    for work in works:
        args.image_size = size or (224 if work == "train-step" else 384)
        print(compare(work, args), flush=True)


if __name__ == "__main__":
    main()
