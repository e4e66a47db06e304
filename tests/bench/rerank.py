"""Re-ranking: pairs per second, beside a way that projects an image for each of its texts.

    python tests/bench/rerank.py [--images 200] [--k 32] [--turns 5] [--size small]
    python tests/bench/rerank.py --whole [--images 1000] [--k 128] [--devices 8] [--out FILE]

The first times both ways in turns, on the same pairs, and prints the median ratio. The second
measures the full work once: time, pairs, peak memory; --out stores the scores, and the difference
from those of an earlier FILE is printed.
"""

import argparse
import os
import pathlib
import resource
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS_PER_IMAGE, LENGTH = 5, 24


def make(args):
    """A model, a dataset of noise with five texts an image, and the pairs to score."""
    import numpy as np
    import tiny

    from blip_jax import nn
    from blip_jax.data.pixels import RecordPixels
    from blip_jax.data.tokenizer import TokenIds
    from blip_jax.models import Model
    from blip_jax.tasks.eval_dataset import EvalDataset

    rng = np.random.default_rng(0)
    config = tiny.config(med={"max_length": LENGTH})
    if args.size == "small":  # image tokens and layers enough for their projection to count
        config = nn.preset(
            "tiny", vit={"image_size": 112, "patch_size": 8, "width": 64, "depth": 2, "heads": 2},
            med={"width": 64, "depth": 2, "heads": 2, "mlp_dim": 128, "vocab_size": tiny.VOCAB,
                 "max_length": LENGTH}, embed_dim=16,
        )  # fmt: skip
    size = config.vit.image_size
    model = Model(tiny.init(config, 0, "retrieval"), config, TokenIds(), model_type="retrieval")
    images = rng.integers(0, 256, (args.images, size, size, 3), np.uint8)
    records = [{"key": f"{row:06d}", "texts": []} for row in range(args.images)]
    count = TEXTS_PER_IMAGE * args.images
    ids = rng.integers(5, tiny.VOCAB - 2, (count, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < rng.integers(8, LENGTH, count)[:, None]
    similarity = rng.normal(size=(args.images, count)).astype(np.float32)
    pairs = []
    from blip_jax.metrics import retrieval

    retrieval.rerank(similarity, args.k, lambda i, t: (pairs.append((i, t)), 0.0 * i)[1])
    return model, EvalDataset(images, records, RecordPixels("image", size)), ids, mask, pairs[0]


def one_by_one(model, dataset, ids, mask):
    """Holds the tokens of all images, and copies and projects them for each pair."""
    from blip_jax.models.functions import encode_image_function
    from blip_jax.models.pmapped import PmappedFunction

    tokens, _ = dataset.run(encode_image_function(model), dataset.images)

    def score(apply, tokens, ids, mask):
        return apply("itm_logits", ids, mask, apply("image_context", tokens, "encoder"))

    function = PmappedFunction(score, model)
    return lambda image, text: dataset.run(
        lambda i, t: function(tokens[i], ids[t], mask[t])[:, 1], image, text
    )[0]


def compare(args) -> None:
    import numpy as np

    from blip_jax.tasks.reranking import PairScorer

    model, dataset, ids, mask, pairs = make(args)
    ways = [PairScorer(model, dataset, ids, mask, args.memory)]
    ways.append(one_by_one(model, dataset, ids, mask))
    scores = [way(*pairs) for way in ways]
    print(f"{len(pairs[0]):,} pairs, largest difference {np.abs(scores[0] - scores[1]).max():.1e}")
    times: list[list[float]] = [[], []]
    for number in range(args.turns):
        for way in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            ways[way](*pairs)
            times[way].append(time.perf_counter() - start)
    speeds = [len(pairs[0]) / statistics.median(part) for part in times]
    ratio = statistics.median(old / new for new, old in zip(*times, strict=True))
    print(
        f"{speeds[0]:,.0f} pairs/s; one by one {speeds[1]:,.0f} pairs/s; median ratio {ratio:.2f}"
    )


def whole(args) -> None:
    import jax
    import numpy as np

    from blip_jax.tasks.reranking import PairScorer

    model, dataset, ids, mask, pairs = make(args)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu = time.perf_counter(), time.process_time()
    scores = PairScorer(model, dataset, ids, mask, args.memory)(*pairs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{jax.local_device_count()} devices: {len(scores):,} pairs in {seconds:.0f} s "
        f"({cpu:.0f} s of CPU time), peak {peak:,.0f} MiB ({before:,.0f} before)"
    )
    if args.out and os.path.exists(args.out):
        other = np.load(args.out)
        print(f"largest difference from {args.out}: {np.abs(scores - other).max():.1e}")
    elif args.out:
        np.save(args.out, scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--memory", type=float, default=1.0, help="GiB, task.rerank_memory_gib")
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", help=".npy of the scores")
    args = parser.parse_args()
    flag = f"--xla_force_host_platform_device_count={args.devices}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    (whole if args.whole else compare)(args)


if __name__ == "__main__":
    main()
