"""How well the filter decides, by origin of the texts, where the truth is known.

Legend: M texts.
"""

import math
from typing import Any

import numpy as np

from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import TextTable
from blip_jax.metrics import filtering

MEASURES = ("curve", "calibration", "histogram")


def filter_quality_by_origin(
    table: TextTable, p_match: np.ndarray, kept: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Measures decisions against the truth.

    Args:
      table: the texts.
      p_match: float [M], of the filter that decides.
      kept: bool [M].
      truth: int8 [M] (labels.py); texts of unknown truth are not counted.

    Returns: 'rows' (one dict per origin) and 'curve', 'calibration', 'histogram' (of `filtering`)
      by origin, and 'fit' (of `fit_calibration`) with 'calibrated', the calibration after it; {}
      if no truth is known.
    """
    found: dict[str, Any] = {"rows": []}
    for origin in ORIGINS:
        own = table.where("origin", origin) & (truth != UNKNOWN)
        if not own.any():
            continue
        score, is_true, passed = p_match[own], truth[own] == TRUE, kept[own]
        decision = filtering.decision_scores(passed, is_true)
        found["rows"].append({
            "origin": origin,
            "count": int(own.sum()),
            "noise_share": decision["noise_before"],
            "kept_share": decision["kept_share"],
            "noise_share_kept": decision["noise_after"],
            "precision": decision["precision"],
            "recall": decision["recall"],
            "average_precision": filtering.average_precision(score, is_true),
        })  # fmt: skip
        measures = {name: getattr(filtering, name)(score, is_true) for name in MEASURES}
        measures |= _cross_fitted(score, is_true, table.row[own] % 2 == 0)
        for name, measured in measures.items():
            found.setdefault(name, {})[origin] = measured
        errors = {
            "calibration_error": measures["calibration"]["ece"],
            "calibrated": measures.get("calibrated", {}).get("ece", math.nan),
        }
        found["rows"][-1] |= errors
    return found if found["rows"] else {}


def _cross_fitted(p_match: np.ndarray, true: np.ndarray, first_half: np.ndarray) -> dict[str, Any]:
    """Returns the calibration after `filtering.fit_calibration`, and the fit on all texts.

    Each half of the images is measured with the fit of the other half.

    Args:
      first_half: bool [N], the texts of one half of the images.
    """
    if first_half.all() or not first_half.any():
        return {}
    fitted = np.empty(len(p_match))
    for half in (first_half, ~first_half):
        fitted[half] = filtering.calibrated(
            p_match[half], filtering.fit_calibration(p_match[~half], true[~half])
        )
    fit = filtering.fit_calibration(p_match, true)
    return {"fit": fit, "calibrated": filtering.calibration(fitted, true)}
