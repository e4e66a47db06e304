"""Draws tests/bench/ablation.svg from the ablation's table in blip_jax/capfilt/README.md.

python tests/bench/plot_ablation.py [OUT]      OUT.png draws a picture of pixels
"""

import itertools
import pathlib
import re
import sys

import matplotlib
from matplotlib import pyplot

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "blip_jax" / "capfilt" / "README.md"
PANELS = {"ITC R@1": "#3b82c4", "CIDEr": "#d97e2b"}
GREY = "#808080"  # of text and axes: legible on white and on black
HEADER = re.compile(r"\| arm .*CIDEr")


def read_table() -> dict[str, dict[str, tuple[float, float]]]:
    """Returns (mean, standard deviation) by column, then by arm."""
    rows = itertools.dropwhile(
        lambda line: not HEADER.match(line), README.read_text("utf-8").splitlines()
    )
    rows = itertools.takewhile(lambda line: line.startswith("|"), rows)
    names, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    table = {name: {} for name in PANELS}
    for row in rows:
        cells = dict(zip(names, row, strict=True))
        for name in PANELS:
            mean, deviation = cells[name].split(" ± ")
            table[name][cells["arm"]] = float(mean), float(deviation)
    return table


def style(salt: str) -> None:
    """Makes matplotlib write the same bytes for the same numbers, legible on white and on black."""
    matplotlib.rcParams.update({
        "svg.fonttype": "path", "svg.hashsalt": salt, "font.size": 11, "text.color": GREY,
        "axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    })  # fmt: skip


def draw(table: dict[str, dict[str, tuple[float, float]]], out: str) -> None:
    """Writes a panel for each column, with a bar for each arm."""
    style("ablation")
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(10, 3.4), layout="constrained")
    for axes, (name, color) in zip(panels, PANELS.items(), strict=True):
        means, deviations = zip(*table[name].values(), strict=True)
        axes.bar(
            list(table[name]), means, yerr=deviations, color=color, width=0.65,
            error_kw={"ecolor": GREY, "capsize": 4, "elinewidth": 1.5},
        )  # fmt: skip
        for number, mean in enumerate(means):  # at the foot: error bars do not reach it
            axes.text(number, max(means) / 60, f"{mean:.1f}", color="white", ha="center")
        axes.set_title(f"{name}, mean ± standard deviation of three seeds", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_visible(False)
    figure.savefig(out, transparent=True, metadata={} if out.endswith(".png") else {"Date": None})


if __name__ == "__main__":
    draw(read_table(), *(sys.argv[1:] or [str(ROOT / "tests" / "bench" / "ablation.svg")]))
