"""How the filter did, by origin of the texts, where the truth is known. Legend: M texts."""

from typing import Any

import numpy as np

from blip_jax.capfilt.columns import Columns
from blip_jax.capfilt.scores import ORIGINS
from blip_jax.capfilt.truth import TRUE, UNKNOWN
from blip_jax.evaluation import filtering


def measure(
    columns: Columns, p_match: np.ndarray, kept: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Decisions against the truth.

    Args:
      columns: the texts.
      p_match: float [M], by the filter that decides.
      kept: bool [M].
      truth: int8 [M] (truth.py); texts of which nothing is known are left out.

    Returns: 'rows' (a dict an origin) and 'curve', 'calibration', 'histogram' (of `filtering`) by
      origin; {} where nothing is known.
    """
    found: dict[str, Any] = {"rows": []}
    for origin in ORIGINS:
        own = columns.where("origin", origin) & (truth != UNKNOWN)
        if not own.any():
            continue
        score, good, passed = p_match[own], truth[own] == TRUE, kept[own]
        decision = filtering.decision_scores(passed, good)
        found["rows"].append({
            "texts": origin,
            "count": int(own.sum()),
            "noise": decision["noise_before"],
            "kept": decision["kept_share"],
            "noise kept": decision["noise_after"],
            "precision": decision["precision"],
            "recall": decision["recall"],
            "average precision": filtering.average_precision(score, good),
        })  # fmt: skip
        for name in ("curve", "calibration", "histogram"):
            measured = getattr(filtering, name)(score, good)
            found.setdefault(name, {})[origin] = measured
    return found if found["rows"] else {}
