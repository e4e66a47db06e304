"""A training in a bucket: stopped and resumed there, it equals one on this machine's disk.

`test_bucket.py` starts it with the bucket's address in the environment.
"""

import importlib.util
import sys

import jax
import numpy as np
import processes
from etils import epath

from blip_jax.runtime.config import replace
from blip_jax.train import loop


def train(world, workdir: str, steps: int):
    spec = importlib.util.spec_from_file_location("captioning", f"{world}/captioning.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = replace(module.get_config(), steps=steps, checkpoints={"every": 2, "keep_every": 2})
    return jax.device_get(loop.train(config, workdir, jax.devices()[:1], resume="anyway"))


def main(folder: str) -> None:
    world = processes.build(f"{folder}/world")
    whole = train(world, f"{folder}/run", 4)
    train(world, "gs://bucket/training", 2)
    resumed = train(world, "gs://bucket/training", 4)
    for got, want in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(got, want)
    assert processes.reports("gs://bucket/training") == processes.reports(f"{folder}/run")
    steps = sorted(path.name for path in epath.Path("gs://bucket/training/checkpoints").iterdir())
    assert steps == ["2", "4"], steps
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1])
