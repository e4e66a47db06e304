"""How long an import of many small records takes, and how much memory all its processes together.

    python tests/bench/import_records.py [--records 100000] [--shards 40] [--workers 2] [--kill]

Writes img2dataset's tars (tests/found_data.py: 48 x 40 JPEGs, 2 % of the records broken in ten
ways), and imports them with the command line. With --kill it is killed once half of the units are
done, called again, and what comes out is compared with an import that was left alone.

    python tests/bench/import_records.py --runner DirectRunner \\
        --options "--direct_num_workers=2 --direct_running_mode=multi_processing"

does so on Apache Beam, beside the import without it; --kill kills the one on Beam.

    python tests/bench/import_records.py --beside OTHER [--records 5000] [--width 256 --height 192]
        [--quality 90]

imports tars of whole JPEGs in turns with another checkout of the repository, with one process, and
prints the CPU time of both, starting included, once it has seen that the rows are the same.
"""

import argparse
import io
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence

from array_record.python.array_record_data_source import ArrayRecordDataSource

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--runner", default="", help="of Apache Beam")
    parser.add_argument("--options", default="", help="of the runner")
    parser.add_argument("--beside", type=pathlib.Path)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    if args.beside:
        return beside(args)
    import malformed_files as found

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        count = found.write_shards(folder / "in", args.shards, args.records // args.shards)
        seconds, peak, cpu = measured(folder / "in", folder / "out", args.workers)
        manifest = json.loads((folder / "out" / "manifest.json").read_text())
        skipped = sum(manifest["skipped"].values())
        assert manifest["records_read"] == count == manifest["rows"] + skipped
        print(
            f"{count:,} records, {manifest['rows']:,} rows, {skipped:,} skipped: {seconds:.1f} s, "
            f"{count / seconds:,.0f} records/s with {args.workers} processes, {cpu:.1f} s of CPU "
            f"time, peak {peak:,.0f} MiB",
            flush=True,
        )
        beam = (f"--config.beam.runner={args.runner}", f"--config.beam.options={args.options}")
        beam = beam if args.runner else ()
        if beam:
            seconds, peak, cpu = measured(folder / "in", folder / "beam", args.workers, beam)
            same = content(folder / "out") == content(folder / "beam")
            print(
                f"{args.runner} {args.options}: {seconds:.1f} s, {count / seconds:,.0f} records/s, "
                f"{cpu:.1f} s of CPU time, peak {peak:,.0f} MiB, the same bytes: {same}",
                flush=True,
            )
        if args.kill:
            killed = folder / "killed"
            _, peak, _ = measured(folder / "in", killed, args.workers, beam, args.shards // 2)
            left = len(list((killed / "units").glob("0*.json")))
            seconds, again, _ = measured(folder / "in", killed, args.workers, beam)
            same = content(folder / "out") == content(killed)
            print(
                f"killed with {left} of {args.shards} units done, called again: {seconds:.1f} s, "
                f"peak {max(peak, again):,.0f} MiB, the same bytes: {same}"
            )


def beside(args) -> None:
    """Imports the same tars with this checkout and with another, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_whole(folder / "in", args)
        ratios, roots = [], {"here": ROOT, "there": args.beside.resolve()}
        for turn in range(args.turns):
            spent = {}
            for place, root in sorted(roots.items(), reverse=bool(turn % 2)):
                shutil.rmtree(folder / place, ignore_errors=True)
                spent[place] = cpu_seconds(folder / "in", folder / place, root)
            assert rows(folder / "here") == rows(folder / "there")
            ratios.append(spent["there"] / spent["here"])
            rates = {place: f"{args.records / seconds:,.0f}" for place, seconds in spent.items()}
            print(
                f"images a CPU second: {rates}, ratio {ratios[-1]:.2f}; the same rows", flush=True
            )
        print(f"median ratio {statistics.median(ratios):.2f}")


def write_whole(folder: pathlib.Path, args) -> None:
    """Writes five tars of JPEGs, each with a text and the JSON of img2dataset."""
    sys.path.insert(0, str(HERE.parent))
    from input import photo

    folder.mkdir()
    for number in range(5):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for row in range(number, args.records, 5):
                text = f"picture {row} of many"
                fields = {"caption": text, "url": f"http://a.b/{row}.jpg", "status": "success",
                          "width": args.width, "height": args.height, "exif": "{}"}  # fmt: skip
                picture = photo(row, args.height, args.width, args.quality)
                files = {
                    "jpg": picture, "txt": text.encode(), "json": json.dumps(fields).encode(),
                }  # fmt: skip
                for suffix, data in files.items():
                    entry = tarfile.TarInfo(f"{row:08d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))


def cpu_seconds(source, out, root: pathlib.Path) -> float:
    """Returns the CPU time of an import by the checkout in `root`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "blip_jax", "prepare", f"--config={root / 'configs/prepare.py'}",
         f"--workdir={out}", f"--config.source={source}", "--config.workers=1"],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=True, capture_output=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(
    source, out, workers: int, options: Sequence[str] = (), kill_at: int | None = None
) -> tuple[float, float, float]:
    """(seconds, MiB at the peak over all processes, CPU seconds of them) of one import."""
    argv = [sys.executable, "-m", "blip_jax", "prepare", f"--workdir={out}"]
    argv += [f"--config={ROOT / 'configs/prepare.py'}", f"--config.source={source}"]
    argv += [f"--config.workers={workers}", *options]
    start, before, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), 0.0
    process = subprocess.Popen(argv, cwd=ROOT)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        if kill_at is not None and len(list(out.glob("units/0*.json"))) >= kill_at:
            process.kill()
            process.wait()
            break
        time.sleep(0.1)
    assert kill_at is not None or process.returncode == 0
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, peak, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def memory(pid: int, with_files: bool = True) -> float:
    """MiB that a process and those it started hold; pages they share are counted for each.

    Args:
      with_files: also pages of files, which the system takes back when memory is short.
    """
    try:
        _, pages, of_files, *_ = map(int, pathlib.Path(f"/proc/{pid}/statm").read_text().split())
        pages -= 0 if with_files else of_files
        threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
        children = [child for x in threads for child in (x / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return own + sum(memory(int(child), with_files) for child in children)


def rows(folder: pathlib.Path) -> list[bytes]:
    """Returns the rows of a dataset as they are stored, before compression."""
    return [
        row for path in sorted(folder.glob("*array_record*")) for row in ArrayRecordDataSource(path)
    ]


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


if __name__ == "__main__":
    main()
