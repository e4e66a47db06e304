"""Cleans broken web data with hosts that are killed again and again; nothing is lost or repeated.

python tests/kill_capfilt.py [--shards 40] [--records 500] [--kills 25] [--seed 0]

Makes img2dataset's tars of which 2 % of the records are broken or odd in ten ways, imports them,
and captions and scores the images twice: by one process that nobody stops, and by one to three at
a time of which one after the other gets SIGKILL at a moment drawn by chance. Compares the rows
byte for byte and counts the input. Exit status 1 if anything differs.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import conftest  # noqa: F401, as for the tests: CPU devices, no compilation cache
import malformed_files
import processes
import tiny_dataset

from blip_jax.cli.main import main as blip_jax
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.tokenizer import train_wordpiece

CONFIGS = processes.HERE.parent / "configs"


def imported(folder: pathlib.Path, shards: int, records: int) -> tuple[str, int]:
    """The dataset of the tars, and how many records they hold."""
    count = malformed_files.write_shards(folder / "tars", shards, records)
    source = f"--config.source={folder}/tars/*.tar"
    argv = ["prepare", f"--config={CONFIGS}/prepare.py", f"--workdir={folder}/images", source]
    assert blip_jax(argv) == 0
    return str(folder / "images"), count


def models(folder: pathlib.Path) -> list[str]:
    """Flags that name a captioner and a filter."""
    texts = [f"picture {number} word" for number in range(300)]
    words = train_wordpiece([tiny_dataset.PROMPT, *texts], str(folder / "words"), 200)
    world = tiny_dataset.TinyDataset(str(folder), "", "", words)
    saved = [
        tiny_dataset.save(
            tiny_dataset.trained(world, seed, tiny_dataset.PROMPT), str(folder / name)
        )
        for seed, name in enumerate(("captioner", "filter"))
    ]
    return [f"--config.captioners={saved[0]}", f"--config.filters={saved[1]}"]


def host(folder: pathlib.Path, flags: list[str], log: pathlib.Path) -> subprocess.Popen:
    """Starts a process that captions and scores into `folder`."""
    argv = [sys.executable, "-m", "blip_jax", "capfilt", f"--config={CONFIGS}/capfilt.py"]
    with log.open("w") as printed:
        return subprocess.Popen(
            [*argv, f"--workdir={folder}", *flags],
            env=processes.environment(1), stdout=printed, stderr=subprocess.STDOUT,
        )  # fmt: skip


def done(folder: pathlib.Path) -> int:
    """ShardQueue that are written."""
    return len(list((folder / "scores").glob("scores-*.array_record-*")))


def with_kills(
    folder: pathlib.Path, flags: list[str], shards: int, kills: int, draw: random.Random
) -> None:
    """One to three hosts at a time, until as many were killed as wanted and all is done.

    The kills are spread over the shards, so that they come before the end.
    """
    hosts, number, killed = [], 0, 0
    while True:
        ended = [process.wait() for process in hosts if process.poll() is not None]
        assert not any(ended), "\n".join(x.read_text() for x in folder.parent.glob("host-*"))
        if ended:
            assert killed == kills, f"all was done after {killed} kills"
            break
        for _ in range(draw.randint(1, 3) - len(hosts) if killed < kills else not hosts):
            hosts.append(host(folder, flags, folder.parent / f"host-{number}"))
            number += 1
        begun, target = time.monotonic(), killed * shards / (kills + 4)
        while done(folder) < target and all(p.poll() is None for p in hosts):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 2 if target else 12))  # in a shard, or while one starts
        if killed < kills:
            victim = hosts.pop(draw.randrange(len(hosts)))
            alive = victim.poll() is None
            victim.kill()
            assert alive or victim.wait() == 0
            killed += alive
            seconds = time.monotonic() - begun
            print(
                f"kill {killed} after {seconds:.1f} s, {len(hosts)} go on; {done(folder)} shards",
                flush=True,
            )
    for process in hosts:
        assert process.wait() == 0


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted((folder / "scores").glob("scores-*.array_record-*"))
    }


def compared(folder: pathlib.Path, images: str, records: int) -> dict[str, int]:
    """Checks all that is claimed, and returns counts of what became of the records."""
    killed, whole = folder / "killed", folder / "whole"
    found, wanted = files(killed), files(whole)
    assert list(found) == list(wanted) and found == wanted, "rows differ"
    rows, source = open_dataset(str(killed / "scores"), "train"), open_dataset(images, "train")
    assert len(rows) == len(source)
    keys = [to_text(rows[i]["key"]) for i in range(len(rows))]
    assert keys == [to_text(source[i]["key"]) for i in range(len(rows))]
    assert len(set(keys)) == len(keys)
    manifest = json.loads((pathlib.Path(images) / "manifest.json").read_text())
    assert manifest["records_read"] == records and manifest["rows"] == len(rows)
    counts = {"rows": len(rows), **manifest["skipped"]}
    assert sum(counts.values()) == records, counts
    assert not list((killed / "scores").rglob(".incomplete-*"))
    return counts


def run(folder: pathlib.Path, shards: int, records: int, kills: int, seed: int) -> dict[str, int]:
    """All of it, in `folder`."""
    images, count = imported(folder, shards, records)
    flags = models(folder)
    flags += [f"--config.dataset={images}", "--config.decoding.max_length=12"]
    flags += ["--config.batch_size=50", f"--config.shard_rows={records}"]
    begun = time.monotonic()
    assert host(folder / "whole", flags, folder / "log-whole").wait() == 0
    print(f"whole: {time.monotonic() - begun:.0f} s", flush=True)
    with_kills(folder / "killed", flags, shards, kills, random.Random(seed))
    return compared(folder, images, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"shards": 40, "records": 500, "kills": 25, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    folder = pathlib.Path(tempfile.mkdtemp())
    print(f"in {folder}; {os.cpu_count()} cores", flush=True)
    print(f"the same byte for byte; of the records: {run(folder, **vars(parser.parse_args()))}")


if __name__ == "__main__":
    main()
