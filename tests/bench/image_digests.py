"""Time of the digests of a dataset's images, which a training takes before its first step.

python tests/bench/image_digests.py [--images 100000] [--kilobytes 5]
"""

import argparse
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kilobytes", type=int, default=5, help="of each image")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import numpy as np
    import tiny_dataset

    from blip_jax.data.image_digests import image_digests

    noise = np.random.default_rng(0).bytes(1000 * args.kilobytes)
    records = [
        {"key": str(row), "image": row.to_bytes(8, "big") + noise, "texts": ["a b"], "truth": ""}
        for row in range(args.images)
    ]
    with tempfile.TemporaryDirectory() as folder:
        dataset = tiny_dataset.write(f"{folder}/dataset", records)
        start, cpu = time.perf_counter(), time.process_time()
        assert len(image_digests(dataset, "train")) == args.images
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{args.images:,} images: {seconds:.1f} s, {cpu:.1f} s of CPU time")


if __name__ == "__main__":
    main()
