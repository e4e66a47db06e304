"""Training steps and captions on one GPU in bfloat16, beside PyTorch; called by gpu.sh.

Each row is a process of its own, as both libraries take the whole memory. Rows that the time does
not suffice for are named. MFU is the step's FLOPs by formula (nn/flops.py) a second, by the rate of
a matrix product that is measured first.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time
import typing

import numpy as np
import peer_steps
import peer_works
from turn_taking import Worker, WorkerEnded, serve

HERE = pathlib.Path(__file__).resolve().parent
BATCHES = {"vit_b": 90, "vit_l": 75, "small": 4}  # of steps: the paper's on a GPU
PARTS = ("vit_b", "vit_l", "captions")
WARMUP = 2  # turns that are not counted


def matrix_product(size: int, repeats: int = 20):
    """Returns products of two bfloat16 matrices, one after the other."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)

    @jax.jit
    def multiply(a, b):
        return jax.lax.fori_loop(0, repeats, lambda _, x: (x @ b) * size**-0.5, a)

    work = lambda: jax.block_until_ready(multiply(a, b))  # noqa: E731
    return work, lambda _: {"flops": np.array(2.0 * size**3 * repeats)}


def attention_choices() -> tuple[str, ...]:
    """Returns the implementations of attention that the model's config offers, or ""."""
    from blip_jax.nn import BlipConfig
    from blip_jax.runtime.config import field_types

    return typing.get_args(field_types(BlipConfig).get("attention")) or ("",)


class Table:
    """Rows as they are measured."""

    def __init__(self, args):
        self._args, self._end = args, time.monotonic() + 60 * args.minutes
        self.rows: list[dict] = []
        print("| what | a second | TFLOP/s | share of the product's rate | of the peer's | note |")
        print("|---|---|---|---|---|---|", flush=True)

    def measure(self, what: str, argv: list, units: int, peer: dict | None = None) -> dict:
        """Adds a row: units a second of the work of a worker."""
        row = {"what": what, "per_second": 0.0, "tflops": 0.0, "mfu": 0.0, "ratio": 0.0, "note": ""}
        self.rows.append(row)
        left = self._end - time.monotonic()
        if left < self._args.least_seconds:
            row["note"] = "no time left"
        else:
            self._fill(row, argv, units, peer)
        numbers = f"{row['per_second']:,.2f} | {row['tflops']:,.1f} | {row['mfu']:.1%}"
        print(f"| {what} | {numbers} | {row['ratio']:.2f} | {row['note']} |", flush=True)
        return row

    def _fill(self, row: dict, argv: list, units: int, peer: dict | None) -> None:
        begun = time.monotonic()
        try:
            worker = Worker(argv)
            times = [worker.turn().wall for _ in range(WARMUP + self._args.turns)][WARMUP:]
            with tempfile.TemporaryDirectory() as folder:
                found = worker.results(pathlib.Path(folder) / "results.npz")
            worker.end()
        except WorkerEnded:
            row["note"] = "failed; see above"
            return
        seconds = statistics.median(times)
        row["per_second"] = units / seconds
        row["tflops"] = float(found.get("flops", 0.0)) / seconds / 1e12
        row["mfu"] = row["tflops"] / (self.rows[0]["tflops"] or 1)
        row["ratio"] = row["per_second"] / peer["per_second"] if peer and peer["per_second"] else 0
        row["note"] = f"{time.monotonic() - begun:.0f} s in all"


def steps(table: Table, args, model: str) -> None:
    """Adds the pre-training steps of a model: the original's, compiled or not, and ours."""
    size = {"small": 64}.get(model, 224)
    batch = args.batch or BATCHES[model]
    peer = None
    given = ["--model", model, "--image-size", size, "--batch", batch, "--device", args.device]
    if args.original:
        argv = [sys.executable, HERE / "original_step.py", args.original, *given, "--bf16"]
        if model == "small":
            argv += ["--small", json.dumps(peer_works.SMALL)]
        title = f"{model} step of {batch}: original"
        peers = [table.measure(title, argv, batch)]
        # Compiled for a CPU, it takes over ten minutes.
        argv += ["--compile", "eager" if args.rehearse else "inductor"]
        peers.append(table.measure(f"{title}, torch.compile", argv, batch))
        peer = max(peers, key=lambda row: row["per_second"])
    for attention in attention_choices():
        argv = [sys.executable, __file__, "--worker", "step", *given, "--attention", attention]
        title = f"{model} step of {batch}: blip_jax {attention}".strip()
        table.measure(title, argv, batch, peer)


def captions(table: Table, args) -> None:
    """Adds beam search with 3 beams over a batch, by `transformers` and by us."""
    model, size, batch = ("small", 64, 4) if args.rehearse else ("vit_b", 384, args.batch or 64)
    given = ["--model", model, "--image-size", size, "--batch", batch, "--device", args.device]
    with tempfile.TemporaryDirectory() as folder:
        peer_works.build_world(pathlib.Path(folder), model, size, 0)
        argv = [sys.executable, __file__, *given, "--world", folder, "--worker"]
        title = f"captions, {model} at {size}, batch of {batch}, 3 beams"
        peer = table.measure(f"{title}: transformers", [*argv, "theirs"], batch)
        table.measure(f"{title}: blip_jax", [*argv, "ours"], batch, peer)


def worker(args) -> None:
    """Serves a row's work."""
    dtype = "bfloat16" if args.device == "cuda" else "float32"  # CPUs take minutes to compile it
    task = peer_works.Task(
        pathlib.Path(args.world), args.batch, args.image_size, args.model, dtype, args.device
    )
    changes = {"model.attention": args.attention} if args.attention else {}
    nothing = lambda _: {}  # noqa: E731  tokens of both sides differ in bfloat16
    serve({
        "matrix": lambda: matrix_product(256 if args.rehearse else 8192),
        "step": lambda: peer_steps.ours(task, **changes),
        "ours": lambda: (peer_works.ours_beam(task)[0], nothing),
        "theirs": lambda: (peer_works.theirs_beam(task)[0], nothing),
    }[args.worker])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--original", type=pathlib.Path, help="checkout of salesforce/BLIP")
    parser.add_argument("--minutes", type=float, default=7.5, help="no row is begun after these")
    parser.add_argument("--batch", type=int, default=0, help="0: 90, 75 and 64")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="JSON file of the rows")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    for name in ("--worker", "--model", "--world", "--attention"):
        parser.add_argument(name, default="", help="of a worker; not for use by hand")
    parser.add_argument("--image-size", type=int, help="of a worker; not for use by hand")
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    args.least_seconds = 0 if args.rehearse else 45
    table = Table(args)
    argv = [sys.executable, __file__, "--worker", "matrix", *(["--rehearse"] * args.rehearse)]
    table.measure("matrix product, 8192 x 8192", argv, 20)
    for part in args.parts or PARTS:
        if part == "captions":
            captions(table, args)
        else:
            steps(table, args, "small" if args.rehearse else part)
    if args.out:
        args.out.write_text(json.dumps(table.rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
