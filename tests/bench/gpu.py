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


class Rows:
    """Rates as they are measured.

    Attributes:
      rows: dicts of name, group, side ("ours", "theirs"), per_second, tflops, mfu and note.
    """

    def __init__(self, args):
        self._args, self._end = args, time.monotonic() + 60 * args.minutes
        self.rows: list[dict] = []

    def measure(self, group: str, side: str, name: str, argv: list, units: int) -> None:
        """Adds the units a second of a worker's work."""
        row = {"name": name, "group": group, "side": side, "per_second": 0.0, "tflops": 0.0}
        row |= {"mfu": 0.0, "note": ""}
        self.rows.append(row)
        begun = time.monotonic()
        if self._end - begun < self._args.least_seconds:
            row["note"] = "no time left"
        else:
            try:
                row |= self._rates(argv, units)
            except WorkerEnded:
                late = time.monotonic() > self._end - 1
                row["note"] = "out of time" if late else "failed"
        print(f"# {group}, {name}: {row['per_second']:.2f} a second, {row['note']}", flush=True)

    def _rates(self, argv: list, units: int) -> dict:
        begun = time.monotonic()
        worker = Worker(argv, seconds=self._end - begun)
        times = [worker.turn().wall for _ in range(WARMUP + self._args.turns)][WARMUP:]
        with tempfile.TemporaryDirectory() as folder:
            found = worker.results(pathlib.Path(folder) / "results.npz")
        worker.end()
        seconds = statistics.median(times)
        tflops = float(found.get("flops", 0.0)) / seconds / 1e12
        mfu = tflops / (self.rows[0]["tflops"] or tflops or 1)
        note = f"{time.monotonic() - begun:.0f} s in all"
        return {"per_second": units / seconds, "tflops": tflops, "mfu": mfu, "note": note}

    def table(self) -> str:
        """Returns Markdown; ratios are by the fastest of the others in a group."""
        lines = ["| | | a second | TFLOP/s | of the product's rate | by the peer's | |"]
        lines.append("|---|---|---|---|---|---|---|")
        for row in self.rows:
            peers = [x for x in self.rows if (x["group"], x["side"]) == (row["group"], "theirs")]
            best = max((x["per_second"] for x in peers), default=0.0)
            ratio = f"{row['per_second'] / best:.2f}" if best and row["side"] == "ours" else ""
            mfu = f"{row['tflops']:,.1f} | {row['mfu']:.1%}" if row["tflops"] else " | "
            shown = f"{row['group']} | {row['name']} | {row['per_second']:,.2f}"
            lines.append(f"| {shown} | {mfu} | {ratio} | {row['note']} |")
        return "\n".join(lines)


def steps(rows: Rows, args, model: str) -> None:
    """Adds the pre-training steps of a model: ours, and the original's, compiled and not."""
    size = {"small": 64}.get(model, 224)
    batch = args.batch or BATCHES[model]
    group = f"{model}, pairs of steps of {batch}"
    given = ["--model", model, "--image-size", size, "--batch", batch, "--device", args.device]
    for attention in attention_choices():
        argv = [sys.executable, __file__, "--worker", "step", *given, "--attention", attention]
        rows.measure(group, "ours", f"blip_jax {attention}".strip(), argv, batch)
    if args.original:
        argv = [sys.executable, HERE / "original_step.py", args.original, *given, "--bf16"]
        if model == "small":
            argv += ["--small", json.dumps(peer_works.SMALL)]
        rows.measure(group, "theirs", "original", argv, batch)
        # Compiled for a CPU, it takes over ten minutes.
        argv += ["--compile", "eager" if args.rehearse else "inductor"]
        rows.measure(group, "theirs", "original, torch.compile", argv, batch)


def captions(rows: Rows, args) -> None:
    """Adds beam search with 3 beams over a batch, by us and by `transformers`."""
    model, size, batch = ("small", 64, 4) if args.rehearse else ("vit_b", 384, args.batch or 64)
    given = ["--model", model, "--image-size", size, "--batch", batch, "--device", args.device]
    with tempfile.TemporaryDirectory() as folder:
        peer_works.build_world(pathlib.Path(folder), model, size, 0)
        argv = [sys.executable, __file__, *given, "--world", folder, "--worker"]
        group = f"{model} at {size}, captions of 3 beams, batch {batch}"
        rows.measure(group, "ours", "blip_jax", [*argv, "ours"], batch)
        rows.measure(group, "theirs", "transformers", [*argv, "theirs"], batch)


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
    rows = Rows(args)
    argv = [sys.executable, __file__, "--worker", "matrix", *(["--rehearse"] * args.rehearse)]
    rows.measure("matrix product", "ours", "256" if args.rehearse else "8192", argv, 20)
    works = args.parts or PARTS
    if args.rehearse:  # at its sizes the steps of all models are the same
        works = dict.fromkeys("captions" if part == "captions" else "small" for part in works)
    for work in works:
        if work == "captions":
            captions(rows, args)
        else:
            steps(rows, args, work)
    print(rows.table())
    if args.out:
        args.out.write_text(json.dumps(rows.rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
