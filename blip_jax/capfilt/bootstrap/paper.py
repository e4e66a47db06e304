"""The paper's ablations: its figures, and whether a run's arms come out in the same order.

Source: the paper, tables 1 to 4, and 12 and 13 of its appendix; ViT-B, 14M images, tuned on COCO.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

METRICS = {"ITC R@1": "itc/r@1", "CIDEr": "cider"}  # by the columns of the comparison


@dataclasses.dataclass(frozen=True)
class Order:
    """An order that the paper found between two arms.

    Attributes:
      table: of the paper.
      better, worse: names of arms.
      gaps: of the paper's figures by column: R@1, mean of both directions on COCO, and CIDEr.
    """

    table: str
    better: str
    worse: str
    gaps: Mapping[str, float] = dataclasses.field(default_factory=dict)


# Recall of texts and of images at 1, and CIDEr.
_FIGURES = {
    "none": (78.4, 60.7, 127.8),
    "filter": (79.1, 61.5, 128.2),
    "captioner": (79.7, 62.0, 128.9),
    "both": (80.6, 63.1, 129.7),
    "both_beam": (79.6, 61.9, 128.9),
    "both_shared": (79.8, 62.2, 129.0),
    "share_all": (77.3, 59.5, 125.9),
    "share_all_but_cross_attention": (77.5, 59.9, 126.1),
    "share_none": (78.3, 60.5, 127.4),
}


def _order(table: str, better: str, worse: str) -> Order:
    texts, images, cider = np.subtract(_FIGURES[better], _FIGURES[worse])
    gaps = {"ITC R@1": round((texts + images) / 2, 2), "CIDEr": round(cider, 2)}
    return Order(table, better, worse, gaps)


ORDERS = (
    _order("1", "filter", "none"),
    _order("1", "captioner", "none"),
    _order("1", "both", "filter"),
    _order("1", "both", "captioner"),
    _order("2", "both", "both_beam"),
    _order("3", "both", "both_shared"),
    _order("4", "none", "share_none"),
    _order("4", "none", "share_all_but_cross_attention"),
    _order("4", "none", "share_all"),
    # All arms train for as many steps, so that `none` sees its web texts as often as in table 12.
    _order("12", "both", "none"),
    Order("13", "both", "both_continued"),
)


def compare_orders(found: Sequence[Mapping[str, Mapping[str, float]]]) -> list[dict]:
    """Returns a row for each order of the paper whose arms were run, [] for a single seed.

    Args:
      found: of each seed, the metrics of each arm.

    Returns: rows of 'table', 'better', 'worse', and for each column the paper's gap, ours as (mean,
      standard error) of the differences within a seed, and a verdict: "reproduced" if ours is above
      0 by more than two standard errors, "reversed" if below, else "undecided".
    """
    if len(found) < 2:
        return []
    rows = []
    for order in ORDERS:
        if not {order.better, order.worse} <= set(found[0]):
            continue
        row = {"table": order.table, "better": order.better, "worse": order.worse}
        for column, metric in METRICS.items():
            gaps = [arms[order.better][metric] - arms[order.worse][metric] for arms in found]
            mean, error = np.mean(gaps), np.std(gaps, ddof=1) / len(gaps) ** 0.5
            row[f"{column}, paper"] = order.gaps.get(column)
            row[column] = (float(mean), float(error))
            row[f"{column}, order"] = verdict(mean, error)
        rows.append(row)
    return rows


def verdict(mean: float, error: float) -> str:
    """Returns what a difference with this standard error says about an order."""
    if abs(mean) <= 2 * error:
        return "undecided"
    return "reproduced" if mean > 0 else "reversed"
