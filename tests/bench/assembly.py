"""How long assembling a scored dataset takes, and how much memory its columns.

    python tests/bench/assembly.py [--rows 1000000] [--workers 2]

Writes rows of two texts each, then reads them with one process and with several, applies rules,
counts, and sweeps thresholds. Seconds of CPU are of this process alone.
"""

import argparse
import dataclasses
import pathlib
import resource
import tempfile
import time

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.capfilt import selection, statistics, storage

SHARD = 50_000
WORDS = "a small red dog with two blue cats on the green table near an old white house".split()


def write(folder: str, rows: int) -> None:
    """Rows as capfilt writes them, faster than by TFDS."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 11)).encode() for _ in range(20_000)]
    starts = range(0, rows, SHARD)
    for number, start in enumerate(starts):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rows, workers = arguments.rows, arguments.workers
    with tempfile.TemporaryDirectory() as folder:
        write(folder, rows)
        size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir()) / 1e6
        print(f"{rows:,} rows, {size:,.0f} MB of shards; memory {memory():,.0f} MB")
        columns = timed("read", lambda: storage.read(folder, "train"))
        timed(f"read, {workers} proc.", lambda: storage.read(folder, "train", workers))
    own = sum(getattr(getattr(columns, f.name), "nbytes", 0) for f in dataclasses.fields(columns))
    print(f"{len(columns.row):,} texts in columns of {own / 1e6:,.0f} MB")
    for title, asked in (
        ("rules", selection.SelectionRules()),
        ("rules, best 1", selection.SelectionRules(max_texts_per_image=1)),
    ):
        decision = timed(title, lambda asked=asked: selection.select_texts(columns, asked))
    unknown = np.full(len(columns.row), -1, np.int8)
    scored = statistics.Scored(columns, selection.SelectionRules(), decision, unknown, None)
    timed("statistics", lambda: statistics.gather(scored))
    timed("sweep of 11", lambda: statistics.sweep(scored, np.linspace(0, 1, 11)))


def timed(title: str, work):
    start, busy = time.perf_counter(), time.process_time()
    found = work()
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{title:14} {wall:6.2f} s, {busy:6.2f} s of CPU; peak memory {memory():,.0f} MB")
    return found


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
