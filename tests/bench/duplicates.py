"""Time and memory of the search for duplicates against the number of rows.

    python tests/bench/duplicates.py [--rows 1e5,1e6,1e7] [--workers 1,2] [--out duplicates.svg]

Each search runs in a process of its own, over random hashes: of each ten rows one is 0 to 4 bits
from an earlier one, and one in a hundred has the bytes of another. Memory is what all processes
together hold at most, without pages of files, sampled ten times a second; a bare process that has
imported the search is taken off. With at most CHECKED rows the result is compared with that of
all pairs. With --runner DirectRunner (and --options) the units also run on Apache Beam, and the
results are compared.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

from import_records import memory  # noqa: E402

from blip_jax.data.ingest.duplicates import DuplicateSearch  # noqa: E402
from blip_jax.runtime.beam import BeamConfig  # noqa: E402
from blip_jax.runtime.work_units import Engine, run_units  # noqa: E402

BATCH = 100_000  # rows made at once
CHECKED = 100_000
BITS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1e5,1e6,1e7")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--runner", default="", help="of Apache Beam")
    parser.add_argument("--options", default="", help="of the runner")
    parser.add_argument("--out", default="", help="picture to draw")
    parser.add_argument("--child", default="", help="folder: used by this script itself")
    args = parser.parse_args()
    if args.child:
        return search(args)
    points = []
    for rows in (int(float(x)) for x in args.rows.split(",")):
        results = []
        for workers in map(int, args.workers.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                found, *point = measured(rows, workers, folder)
            print(
                f"{rows:,} rows, {workers} processes: {(found >= 0).sum():,} duplicates, "
                "{:.1f} s, {:.1f} CPU seconds, {:,.0f} MiB".format(*point),
                flush=True,
            )
            points.append((rows, workers, *point))
            results.append(found)
        if args.runner:
            with tempfile.TemporaryDirectory() as folder:
                beam = ["--runner", args.runner, "--options", args.options]
                found, *point = measured(rows, int(args.workers.split(",")[-1]), folder, beam)
            print(f"{args.runner}: " + "{:.1f} s, {:.1f} CPU seconds, {:,.0f} MiB".format(*point))
            results.append(found)
        assert all((results[0] == other).all() for other in results)
        if rows <= CHECKED:
            assert (results[0] == by_all_pairs(rows)).all()
            print(f"{rows:,} rows: equal to the result of all pairs", flush=True)
    if args.out:
        draw(points, args.out)


def measured(
    rows: int, workers: int, folder: str, more: list[str] | None = None
) -> tuple[np.ndarray, float, float, float]:
    """Returns the originals, int64 [rows], seconds, CPU seconds and MiB of a search."""
    command = [sys.executable, str(HERE), f"--rows={rows}", f"--workers={workers}"]
    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0.0
    process = subprocess.Popen([*command, f"--child={folder}", *(more or [])])
    while process.poll() is None:
        peak = max(peak, memory(process.pid, with_files=False))
        time.sleep(0.1)
    assert process.returncode == 0
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    bare, took = np.load(pathlib.Path(folder, "bare.npy")).tolist()
    return np.load(pathlib.Path(folder, "of.npy")), seconds - took, cpu - took, peak - bare


def search(args: argparse.Namespace) -> None:
    """Searches in this process, and saves the originals, and what starting and the rows took."""
    folder = pathlib.Path(args.child)
    find = DuplicateSearch(str(folder / "search"), BITS)
    bare = memory("self", with_files=False)
    rows = find.write_hashes(hashes(int(args.rows)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    np.save(folder / "bare.npy", [bare, usage.ru_utime + usage.ru_stime])
    engine = Engine(int(args.workers), BeamConfig(args.runner, args.options), str(folder / "beam"))
    for stage in (lambda: [0], lambda: list(find.near_units)):
        list(run_units(stage(), find.make_work, find.finished, engine, lambda: False))
    np.save(folder / "of.npy", find.result().columns(0, rows)[0])


def hashes(rows: int):
    """Yields (content hashes, perceptual hashes), uint64 [BATCH]."""
    for start in range(0, rows, BATCH):
        rng = np.random.default_rng(start)
        phash, content = rng.integers(0, 2**64, (2, min(BATCH, rows - start)), np.uint64)
        count = len(phash) // 10
        copies = 1 + rng.permutation(len(phash) - 1)[:count]
        # Of the row before, or of a row of the first batch, so that copies are far apart too.
        first = np.random.default_rng(0).integers(0, 2**64, (2, min(BATCH, rows)), np.uint64)[0]
        near = np.where(np.arange(count) % 2, first[copies % len(first)], phash[copies - 1])
        for _ in range(4):
            near ^= np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
        phash[copies] = near
        same = copies[: count // 10]
        phash[same], content[same] = phash[same - 1], content[same - 1]
        yield content, phash


def by_all_pairs(rows: int) -> np.ndarray:
    """Returns the originals, int64 [rows], by comparing every row with all originals before it."""
    content, phash = (np.concatenate(x) for x in zip(*hashes(rows), strict=True))
    of, firsts = np.full(rows, -1), {}
    originals, count = np.empty(rows, np.int64), 0
    looks = np.empty(rows, np.uint64)
    for row, identity in enumerate(zip(content.tolist(), phash.tolist(), strict=True)):
        if (first := firsts.setdefault(identity, row)) < row:
            of[row] = first
            continue
        near = np.bitwise_count(looks[:count] ^ phash[row]) <= BITS
        place = int(near.argmax()) if count else 0
        if count and near[place]:
            of[row] = originals[place]
        else:
            originals[count], looks[count] = row, phash[row]
            count += 1
    return of


def draw(points: list[tuple], out: str) -> None:
    """Writes a picture of time and of memory against rows, a line for each number of processes."""
    from matplotlib import pyplot
    from plot_ablation import style

    style("duplicates")
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axes, place, title in zip(panels, (2, 4), ("seconds", "MiB"), strict=True):
        for workers in sorted({point[1] for point in points}):
            own = [point for point in points if point[1] == workers]
            label = f"{workers} process" + "es" * (workers > 1)
            axes.plot([x[0] for x in own], [x[place] for x in own], "o-", label=label)
        axes.set(xscale="log", yscale="log", xlabel="rows", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(out, transparent=True)


if __name__ == "__main__":
    main()
