"""Measures of how well a filter separates true texts from noise.

All values are shares in 0..1. *Precision* is the share of kept texts that are true, *recall* the
share of true texts that are kept. A share of nothing is nan. Legend: N texts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from blip_jax.runtime.errors import UserError

THRESHOLD = 0.5  # as in the paper: a text is dropped if P(match) < 0.5


def noise_share(true) -> float:
    """Returns the share of texts, bool [N], that are not true of their image."""
    true = _truth(true)
    return _ratio((~true).sum(), true.size)


def decision_scores(kept, true) -> dict[str, float]:
    """Returns counts and shares for one group of decisions.

    Args:
      kept: bool [N], what the filter decided.
      true: bool [N], whether the text is true of its image.

    Returns:
      'texts' and 'kept' (counts), 'kept_share', 'noise_before', 'noise_after', 'precision',
      'recall', 'f1'.

    Raises:
      UserError: arrays of different lengths.
    """
    kept, true = _pair(np.asarray(kept, dtype=bool), true, "kept")
    hits, num_kept, num_true = (kept & true).sum(), kept.sum(), true.sum()
    precision = _ratio(hits, num_kept)
    return {
        "texts": int(true.size),
        "kept": int(num_kept),
        "kept_share": _ratio(num_kept, true.size),
        "noise_before": noise_share(true),
        "noise_after": 1 - precision,
        "precision": precision,
        "recall": _ratio(hits, num_true),
        "f1": _ratio(2 * hits, num_kept + num_true),
    }


def curve(p_match, true, thresholds=None) -> dict[str, list[float]]:
    """Returns precision, recall and kept share if texts with P(match) >= threshold are kept.

    Args:
      p_match: float [N]; nan is never kept.
      true: bool [N].
      thresholds: float [M]; by default 0, 0.02, ... 1.

    Returns:
      'thresholds', 'precision', 'recall', 'kept_share': lists of M floats.
    """
    p_match, true = _scored(p_match, true)
    thresholds = np.linspace(0, 1, 51) if thresholds is None else np.asarray(thresholds, np.float64)
    rows = [decision_scores(p_match >= t, true) for t in thresholds]
    names = ("precision", "recall", "kept_share")
    return {"thresholds": thresholds.tolist()} | {n: [row[n] for row in rows] for n in names}


def average_precision(p_match, true) -> float:
    """Returns the area under the precision-recall steps; equal P(match) enter together.

    A random filter scores the share of true texts, a perfect one 1; nan if no text is true.
    """
    p_match, true = _scored(p_match, true)
    if not true.any():
        return float("nan")
    p_match = np.where(np.isnan(p_match), -1.0, p_match)
    order = np.argsort(-p_match, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p_match[order])), true.size - 1)
    hits = np.cumsum(true[order])[ends]
    gained = np.diff(hits, prepend=0) / true.sum()
    return float(np.sum(gained * hits / (ends + 1)))


def calibration(p_match, true, bins: int = 10) -> dict:
    """Returns how often texts are true in bins of P(match), and the calibration error.

    Args:
      p_match: float [N]; nan is ignored.
      true: bool [N].
      bins: number of bins of equal width over 0..1.

    Returns:
      'edges' (bins + 1 floats), 'count' (ints), 'p_match' and 'true_share' (means of each bin, nan
      if it is empty), 'ece' (expected calibration error: mean |p_match - true_share| by count).
    """
    p_match, true = _scored(p_match, true)
    finite = ~np.isnan(p_match)
    p_match, true = p_match[finite], true[finite]
    which = np.clip((p_match * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    mean_p = [_ratio(p_match[which == b].sum(), count[b]) for b in range(bins)]
    share = [_ratio(true[which == b].sum(), count[b]) for b in range(bins)]
    gaps = np.abs(np.subtract(mean_p, share))
    return {
        "edges": np.linspace(0, 1, bins + 1).tolist(),
        "count": count.tolist(),
        "p_match": mean_p,
        "true_share": share,
        "ece": _ratio(np.nansum(gaps * count), count.sum()),
    }


def fit_calibration(p_match, true, bins: int = 20) -> dict[str, list[float]]:
    """Fits how often a text is true as a non-decreasing function of P(match).

    Isotonic regression (Zadrozny and Elkan, 2002) over bins of equal count with at least 50
    texts each, so that a few hundred texts suffice and single texts have little influence.

    Args:
      p_match: float [N]; nan is ignored.
      true: bool [N].
      bins: maximum number of bins.

    Returns: 'p_match' (increasing) and 'true_share', one value for each bin, for `calibrated`.

    Raises:
      UserError: there are no texts.
    """
    p_match, true = _scored(p_match, true)
    finite = ~np.isnan(p_match)
    if not finite.any():
        raise UserError("calibration needs scored texts of known truth, and there are none")
    order = np.argsort(p_match[finite], kind="stable")
    odds, true = _log_odds(p_match[finite][order]), true[finite][order]
    parts = np.array_split(np.arange(true.size), np.clip(true.size // 50, 1, bins))
    middles = [odds[part].mean() for part in parts]
    # With equal P(match), a bin can start at the value where the last one ended.
    middles, which = np.unique(middles, return_inverse=True)
    counts = np.bincount(which, [part.size for part in parts])
    shares = np.bincount(which, [true[part].sum() for part in parts]) / counts
    rising = isotonic_regression(shares, weights=counts).x
    return {"p_match": expit(middles).tolist(), "true_share": rising.tolist()}


def calibrated(p_match, fit: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Returns float64 [N]: P(match) by `fit_calibration`, interpolated linearly; nan stays."""
    odds = _log_odds(np.asarray(p_match, dtype=np.float64))
    return np.interp(odds, _log_odds(np.asarray(fit["p_match"])), fit["true_share"])


def _log_odds(p_match: np.ndarray) -> np.ndarray:
    """Returns finite log odds: no float32 is between the limits and 0 or 1."""
    return logit(np.clip(p_match, 1e-8, 1 - 2.0**-25))


def histogram(values, true, bins: int = 20, limits=(0.0, 1.0)) -> dict[str, list]:
    """Returns counts of scores in bins, separately for true texts and noise.

    Args:
      values: float [N], P(match) or another score; nan and values outside `limits` are ignored.
      true: bool [N].
      bins: number of bins of equal width.
      limits: first and last edge.

    Returns:
      'edges' (bins + 1 floats), 'true' and 'noise' (ints).
    """
    values, true = _pair(np.asarray(values, dtype=np.float64), true, "values")
    edges = np.linspace(*limits, bins + 1)
    counts = {
        name: np.histogram(values[which & ~np.isnan(values)], edges)[0].tolist()
        for name, which in (("true", true), ("noise", ~true))
    }
    return {"edges": edges.tolist(), **counts}


def _ratio(part, whole) -> float:
    return float(part / whole) if whole else float("nan")


def _truth(true) -> np.ndarray:
    true = np.asarray(true, dtype=bool)
    if true.ndim != 1:
        raise UserError(f"true has shape {true.shape}; expected one bool for each text")
    return true


def _scored(p_match, true) -> tuple[np.ndarray, np.ndarray]:
    """Returns P(match) as float64 [N] and bool [N]; raises a UserError outside 0..1."""
    p_match, true = _pair(np.asarray(p_match, dtype=np.float64), true, "p_match")
    outside = (p_match < 0) | (p_match > 1)  # False for NaN
    if outside.any():
        raise UserError(f"p_match has {p_match[outside][0]:g}; expected probabilities, 0 to 1")
    return p_match, true


def _pair(values: np.ndarray, true, name: str) -> tuple[np.ndarray, np.ndarray]:
    true = _truth(true)
    if values.shape != true.shape:
        raise UserError(f"{name} has shape {values.shape}, but true has {true.size} texts")
    return values, true
