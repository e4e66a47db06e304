"""Draws tests/bench/curves.svg: how time grows with images, beams, length, batch, image size.

    python tests/bench/curves.py [OUT.svg] [--turns 5]

A small network with random weights, in one process: decoding over images, beams and tokens, and the
pre-training step over its batch and the tokens of an image. Of each point the least CPU seconds of
some turns are taken, in which the points come one after the other. Printed are the times and the
exponent of the growth at the end of a curve, log(time ratio) / log(size ratio) of the last two
points: 1 is linear.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import peer_steps
import tiny
from matplotlib import pyplot
from peer_works import ROOT
from plot_ablation import GREY, style

from blip_jax import nn
from blip_jax.data.tokenizer import TokenIds
from blip_jax.decoding import Decoding
from blip_jax.models import functions
from blip_jax.models.model import Model

IMAGES, BEAMS, LENGTH, BATCH, SIZE = 8, 3, 20, 8, 64  # of the curves that do not vary them
CURVES = {  # title -> sizes
    "decoding: images": (1, 4, 16, 32),
    "decoding: beams": (1, 2, 4, 8),
    "decoding: tokens": (5, 10, 20, 40),
    "step: pairs of a batch": (4, 8, 16, 32),
    "step: tokens of an image": (32, 64, 96, 128),  # pixels a side here
}


def network(image_size: int = SIZE):
    width = {"width": 128, "depth": 2, "heads": 4}
    return nn.preset(
        "tiny",
        vit={"image_size": image_size, "patch_size": 8, **width},
        med={"mlp_dim": 512, "vocab_size": 4000, "max_length": 64, **width},
    )


def decode(model: Model, images: int, beams: int, length: int) -> Callable[[], object]:
    """Returns beam search that ends no text before its length."""
    decoding = Decoding(
        method="beam", num_beams=beams, repetition_penalty=1.0, min_length=length,
        max_length=length,
    )  # fmt: skip
    shape = decoding.shape(1, model.config.med.max_length)
    function = functions.caption_function(model, shape)
    pixels = np.random.default_rng(0).integers(0, 256, (images, SIZE, SIZE, 3), np.uint8)
    keys = functions.example_keys(0, np.arange(images))[:, None]
    prompts = np.full((images, 1), model.tokenizer.ids.dec, np.int32)
    return lambda: function(pixels, keys, decoding.params(images), prompts)


def step(tokenizer: TokenIds, batch: int, image_size: int) -> Callable[[], object]:
    """Returns the pre-training step; negatives are drawn in groups of 4."""
    changes = {"task.itm.group_size": 4, "task.itc.queue_size": 1024}
    return peer_steps.step(network(image_size), batch, tokenizer, **changes)[0]


def works(title: str, model: Model) -> dict[int, Callable[[], object]]:
    """Returns what is timed at each point of a curve."""
    makes = {
        "decoding: images": lambda n: decode(model, n, BEAMS, LENGTH),
        "decoding: beams": lambda n: decode(model, IMAGES, n, LENGTH),
        "decoding: tokens": lambda n: decode(model, IMAGES, BEAMS, n),
        "step: pairs of a batch": lambda n: step(model.tokenizer, n, SIZE),
        "step: tokens of an image": lambda n: step(model.tokenizer, BATCH, n),
    }
    made = {n: makes[title](n) for n in CURVES[title]}
    for work in made.values():
        work()  # compiles
    if title == "step: tokens of an image":
        return {(n // 8) ** 2 + 1: work for n, work in made.items()}
    return made


def measure(points: dict[int, Callable[[], object]], turns: int) -> dict[int, float]:
    """Returns the least CPU seconds of each point."""
    least = dict.fromkeys(points, math.inf)
    for _ in range(turns):
        for size, work in points.items():
            start = time.process_time()
            work()
            least[size] = min(least[size], time.process_time() - start)
    return least


def exponent(times: dict[int, float]) -> float:
    (n, t), (m, u) = list(times.items())[-2:]
    return math.log(u / t) / math.log(m / n)


def draw(curves: dict[str, dict[int, float]], out: str) -> None:
    """Writes a panel for each curve: measured, and linear through the last point."""
    style("curves")
    figure, panels = pyplot.subplots(1, len(curves), figsize=(15, 3.2), layout="constrained")
    for axes, (title, times) in zip(panels, curves.items(), strict=True):
        sizes, seconds = list(times), list(times.values())
        axes.plot([0, sizes[-1]], [0, seconds[-1]], color=GREY, linestyle=":", linewidth=1)
        axes.plot(sizes, seconds, color="#3b82c4", marker="o", markersize=4)
        axes.set(title=title, xlim=(0, None), ylim=(0, None))
        axes.title.set_fontsize(11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_visible(False)
    panels[0].set_ylabel("CPU seconds")
    figure.savefig(out, transparent=True, metadata={} if out.endswith(".png") else {"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", default=str(ROOT / "tests" / "bench" / "curves.svg"))
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    config = network()
    tokens = TokenIds(dec=config.med.dec_token, enc=config.med.enc_token, vocab_size=4000)
    model = Model(tiny.init(config, 0, "captioner"), config, tokens, model_type="captioner")
    curves = {}
    print("| | CPU seconds by size | exponent at the end |\n|---|---|---|")
    for title in CURVES:
        curves[title] = times = measure(works(title, model), args.turns)
        shown = ", ".join(f"{size}: {seconds:.3f}" for size, seconds in times.items())
        print(f"| {title} | {shown} | {exponent(times):.2f} |", flush=True)
    draw(curves, args.out)


if __name__ == "__main__":
    main()
