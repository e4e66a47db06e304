"""How long assembling a scored dataset takes, and how much memory.

    python tests/bench/assembly.py [--rows 300000 1000000] [--workers 2]

Writes rows of two texts each, then assembles them in a process of its own with each set of rules:
the default; with a sweep of 11 thresholds; and with shares, for which the scores are read before
the selection. Memory is the peak of the process, and of its largest worker.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import trange

from blip_jax.capfilt import provenance, storage

SHARD = 50_000
WORDS = "a small red dog with two blue cats on the green table near an old white house".split()
RULES = {
    "default": [],
    "sweep of 11": [f"threshold_sweep={','.join(str(x / 10) for x in range(11))}"],
    "shares": ["selection.shares.synthetic=0.4"],
}
# Prints the peak memory of itself and of its children.
PROGRAM = """
import resource, sys
from blip_jax.cli.main import main
status = main(sys.argv[1:])
peaks = [resource.getrusage(x).ru_maxrss for x in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("peaks", *peaks)
sys.exit(status)
"""


def write(folder: str, rows: int) -> None:
    """Rows as capfilt writes them, faster than by TFDS."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 1 + n % 20)).encode() for n in range(20_000)]
    starts = range(0, rows, SHARD)
    for number in trange(len(starts), desc=f"write {rows:,} rows", unit="shard"):
        start = starts[number]
        path = storage.shard_path(folder, "train", number, len(starts))
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for row in range(start, min(start + SHARD, rows)):
            example = tf_example_pb2.Example()
            features = example.features.feature
            strings = {
                "key": [b"web-%09d" % row],
                "status": [b"ok"],
                "texts/text": [texts[row * n % len(texts)] for n in (7919, 7907)],
                "texts/origin": [b"web", b"synthetic"],
                "texts/model": [b"", b"captioner"],
                "texts/method": [b"", b"nucleus"],
            }
            for name, values in strings.items():
                features[name].bytes_list.value.extend(values)
            p_match = rng.random(2)
            for name in ("p_match", "cosine", "log_probability"):
                features[f"texts/{name}"].float_list.value.extend(p_match)
            features["texts/itm_logits"].float_list.value.extend([0, 1, 0, 1])
            features["texts/tokens"].int64_list.value.extend([13, 13])
            writer.write(example.SerializeToString())
        writer.close()
    storage.finish(folder, "train", [min(SHARD, rows - start) for start in starts], "")
    provenance.write(folder, {"dataset": folder, "filters": [], "captioners": []})


def measure(scores: str, workers: int, options: list[str]) -> str:
    """Returns a line of the table."""
    with tempfile.TemporaryDirectory() as workdir:
        argv = ["assemble", f"--workdir={workdir}", f"--config.scores={scores}"]
        given = [f"workers={workers}", "gallery_images=0", *options]
        argv += [f"--config.{option}" for option in given]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-c", PROGRAM, *argv]
        ended = subprocess.run(command, capture_output=True, text=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended.returncode == 0, ended.stderr
        busy = sum(getattr(after, x) - getattr(before, x) for x in ("ru_utime", "ru_stime"))
        own, child = (int(x) / 1024 for x in ended.stdout.split("peaks ")[1].split())
    return f"{wall:.1f} | {busy:.1f} | {own:,.0f} | {child:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    table = ["rows | rules | s | CPU s | MiB, this process | MiB, largest worker", "---|" * 6]
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            scores = str(pathlib.Path(folder) / "scores")
            pathlib.Path(scores).mkdir()
            write(scores, rows)
            for name, options in RULES.items():
                found = measure(scores, arguments.workers, options)
                table.append(f"{rows:,} | {name} | {found}")
    print("\n".join(table))


if __name__ == "__main__":
    main()
