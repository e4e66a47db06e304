"""How long `models.load` takes beside reading the file, and how much memory.

    python tests/bench/load.py [--model_type captioner|retrieval|pretrain] [--preset base|large]

Writes a checkpoint with random weights in the original's and in Hugging Face's format and loads
each in a process of its own. The file is read once before, so that it lies in the page cache.
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

PROBE = r"""
import pathlib, re, sys, time
import jax, torch
from blip_jax import inference, models

def memory(name):  # MiB
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(name + r":\s+(\d+) kB", status)[1]) / 1024

jax.block_until_ready(jax.numpy.zeros(1))
before, start, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
model = models.load(sys.argv[1])
jax.block_until_ready(model.placed)
print(time.perf_counter() - start, time.process_time() - busy, memory("VmHWM") - before)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_type", default="captioner")
    parser.add_argument("--preset", default="base")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in written(pathlib.Path(folder), args.model_type, args.preset):
            file = path / "model.safetensors" if path.is_dir() else path
            start = time.perf_counter()
            with open(file, "rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass
            reading, size = time.perf_counter() - start, file.stat().st_size / 2**20
            spent, busy, memory = measured(path)
            print(
                f"{path.name}: {size:.0f} MiB; reading {reading:.2f} s, loading {spent:.2f} s "
                f"({busy:.2f} s of CPU time); peak {memory:.0f} MiB more than before, "
                f"{memory / size:.2f} times the file"
            )


def written(folder: pathlib.Path, model_type: str, preset: str) -> list[pathlib.Path]:
    import jax
    import numpy as np

    from blip_jax import checkpoints, nn

    config = nn.preset(preset, vit={"image_size": 384})
    if model_type == "vqa":
        med = dataclasses.replace(config.med, sharing="none")
        config = dataclasses.replace(config, med=med)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.standard_normal(x.shape, np.float32), nn.param_shapes(config, model_type)
    )
    momentum = queue = None
    if model_type == "pretrain":
        from blip_jax import losses

        momentum = nn.momentum_params(params)
        queue = losses.init_queue(57600, config.embed_dim, jax.random.key(0), random_init=True)
        queue = jax.tree.map(np.asarray, queue)
    checkpoint = checkpoints.Checkpoint(model_type, config, params, momentum, queue)
    paths = {"original": folder / "model.pth", "hf": folder / "huggingface"}
    if model_type not in checkpoints.huggingface.CLASSES:
        del paths["hf"]
    for to, path in paths.items():
        checkpoints.write(checkpoint, str(path), to)
    return list(paths.values())


def measured(path: pathlib.Path) -> tuple[float, float, float]:
    """Seconds, seconds of CPU time, and MiB at the peak beyond what the process had before."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True
    )
    return tuple(float(value) for value in done.stdout.split()[-3:])


if __name__ == "__main__":
    main()
