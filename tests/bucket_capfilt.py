"""CapFilt from a bucket to a bucket: the same rows as on this machine's disk.

`test_bucket.py` starts it with the bucket's address in the environment.
"""

import multiprocessing
import sys
import time

import numpy as np
import tiny_dataset
from etils import epath

from blip_jax.capfilt import mixture, run, storage
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import RecordSource, load_mixture
from blip_jax.decoding import Decoding


def copy(folder: str, target: str) -> None:
    for file in epath.Path(folder).iterdir():
        if file.is_file():
            (epath.Path(target) / file.name).write_bytes(file.read_bytes())


def made(world: tiny_dataset.TinyDataset, dataset: str, output: str, rows: int = 8) -> str:
    """Captions and scores `dataset` into `output`, in shards of `rows` rows."""
    models = [
        {name: (name, tiny_dataset.trained(world, seed, prompt))}
        for seed, (name, prompt) in enumerate({"writer": tiny_dataset.PROMPT, "judge": ""}.items())
    ]
    decodings = (Decoding(max_length=16),)
    return run.run(
        ScoringConfig(dataset, "train", output, decodings, 1, rows, lease_seconds=5), *models
    )


def main(folder: str) -> None:
    world = tiny_dataset.build(f"{folder}/world")
    here, there = f"{folder}/scores", "gs://bucket/capfilt/scores"
    copy(world.web, "gs://bucket/capfilt/web")
    found = []
    for dataset, output in ((world.web, here), ("gs://bucket/capfilt/web", there)):
        found.append(storage.read(made(world, dataset, output), "train"))
    names = [f"scores-train.array_record-{i:05d}-of-00004" for i in range(4)]
    for name in names:
        assert (epath.Path(here) / name).read_bytes() == (epath.Path(there) / name).read_bytes()
    np.testing.assert_array_equal(found[0].p_match, found[1].p_match)

    # A host that comes back finds all done; one that finds a shard missing makes that alone.
    (epath.Path(there) / names[2]).unlink()
    made(world, "gs://bucket/capfilt/web", there)
    for name in names:
        assert (epath.Path(here) / name).read_bytes() == (epath.Path(there) / name).read_bytes()
    source = mixture.ScoredDataset("gs://bucket/capfilt/web", "train", there)
    path = "gs://bucket/capfilt/mixture.json"
    mixture.write_mixture(path, None, source, found[1], found[1].scored, 0.0)
    (component,) = load_mixture(path)
    pairs, images = RecordSource(component), open_dataset(world.web, "train")
    assert len(pairs) == found[1].scored.sum()
    row = int(found[1].row[found[1].scored][5])
    assert pairs[5]["image"] == images[row]["image"]
    shared(world, f"{folder}/in fours")
    print("equal")


def shared(world: tiny_dataset.TinyDataset, here: str) -> None:
    """Two hosts at once in the bucket, one of which dies: the other does what is left."""
    there = "gs://bucket/capfilt/shared/scores"
    shards = epath.Path(made(world, world.web, here, 4))
    wanted = {path.name: path.read_bytes() for path in shards.glob("scores-*.array_record-*")}
    context = multiprocessing.get_context("spawn")
    hosts = [
        context.Process(target=made, args=(world, "gs://bucket/capfilt/web", there, 4))
        for _ in range(2)
    ]
    for process in hosts:
        process.start()
    while not list(epath.Path(there).glob("scores-*.array_record-*")):
        assert all(process.is_alive() for process in hosts)
        time.sleep(0.05)
    hosts[0].kill()
    hosts[1].join()
    assert hosts[1].exitcode == 0
    assert len(wanted) == 8
    for name, content in wanted.items():
        assert (epath.Path(there) / name).read_bytes() == content


if __name__ == "__main__":
    main(sys.argv[1])
