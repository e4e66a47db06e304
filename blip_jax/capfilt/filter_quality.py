"""How the filter did, by origin of the texts, where the truth is known. Legend: M texts."""

import math
from typing import Any

import numpy as np

from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import Columns
from blip_jax.metrics import filtering

MEASURES = ("curve", "calibration", "histogram")


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
      origin, and 'fit' (of `fit_calibration`) with 'calibrated', the calibration after it; {}
      where nothing is known.
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
        measures = {name: getattr(filtering, name)(score, good) for name in MEASURES}
        measures |= _fitted(score, good, columns.row[own] % 2 == 0)
        for name, measured in measures.items():
            found.setdefault(name, {})[origin] = measured
        errors = {
            "calibration error": measures["calibration"]["ece"],
            "calibrated": measures.get("calibrated", {}).get("ece", math.nan),
        }
        found["rows"][-1] |= errors
    return found if found["rows"] else {}


def _fitted(p_match: np.ndarray, true: np.ndarray, half: np.ndarray) -> dict[str, Any]:
    """How good P(match) is after `filtering.fit_calibration`, and the fit on all texts.

    What is measured is fitted on the other half of the images, so that no text helps itself.

    Args:
      half: bool [N], the texts of one half.
    """
    if half.all() or not half.any():
        return {}
    better = np.empty(len(p_match))
    for part in (half, ~half):
        better[part] = filtering.calibrated(
            p_match[part], filtering.fit_calibration(p_match[~part], true[~part])
        )
    fit = filtering.fit_calibration(p_match, true)
    return {"fit": fit, "calibrated": filtering.calibration(better, true)}
