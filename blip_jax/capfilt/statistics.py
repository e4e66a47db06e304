"""Counts of an assembled dataset, by origin, decision, source and captioner: statistics.json.

Legend: N images, M texts, F filters (table.py).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.capfilt import text_measures
from blip_jax.capfilt.filter_quality import filter_quality_by_origin
from blip_jax.capfilt.image_index import Images
from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.selection import (
    KEPT,
    SelectionRules,
    column,
    probability,
    reduce_filters,
    select_texts,
)
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import TextTable, skipped
from blip_jax.metrics import filtering
from blip_jax.runtime.files import nan_to_null

MAX_GROUPS = 20  # sources, licences and captioners that are listed; the others are summed
UNKNOWN_VALUE = "unknown"  # name of a missing source or licence
SCORES = {"p_match": (0.0, 1.0), "cosine": (-1.0, 1.0)}  # score: its range


@dataclasses.dataclass(frozen=True)
class Scored:
    """A scored dataset with the decisions on its texts.

    Attributes:
      table: its texts.
      config: the rules of the selection.
      decision: int16 [M], of `selection.select_texts`.
      truth: int8 [M] (labels.py).
      images: the index of its images; None if there is none.
    """

    table: TextTable
    config: SelectionRules
    decision: np.ndarray
    truth: np.ndarray
    images: Images | None

    @property
    def kept(self) -> np.ndarray:
        return self.decision == KEPT

    @property
    def p_match(self) -> np.ndarray:
        return probability(self.table, self.config)


def gather(scored: Scored, identify_languages: bool = False) -> dict[str, Any]:
    """Returns the content of statistics.json except where it comes from; JSON values.

    Args:
      identify_languages: count texts by language even if no rule needs it.

    Raises:
      UserError: languages cannot be identified.
    """
    table, kept = scored.table, scored.kept
    found = {
        "images": _images(scored),
        "texts": _counts(scored, {name: table.where("origin", name) for name in ORIGINS}, "origin"),
        "decisions": [
            {"decision": name}
            | {
                origin: int((table.where("origin", origin) & (scored.decision == code)).sum())
                for origin in ORIGINS
            }
            for code, name in enumerate(scored.config.decisions)
            if (scored.decision == code).any()
        ],
        "captioners": _counts(scored, _captioners(table), "captioner"),
        "scores": {name: _histogram(scored, name) for name in SCORES},
        "measures": _measures(scored),
        "extra_scores": _extra_scores(table),
        "selection": dataclasses.asdict(scored.config),
    }
    for name in ("source", "license", "opt_out"):
        if scored.images is not None:
            codes, values = scored.images.strings(name)
            if name == "opt_out" and not any(values):
                continue
            found[f"{name}s"] = _counts(scored, _most_common(codes[table.row], values), name)
    if identify_languages or scored.config.languages:
        codes, names = table.language.indices.to_numpy(), table.language.dictionary.to_pylist()
        found["languages"] = _counts(scored, _most_common(codes, names), "language")
    if len(table.filters) > 1:
        found["filters"] = [
            {"filter": name, "mean_p_match": _mean(table.p_match[:, i][table.scored])}
            for i, name in enumerate(table.filters)
        ]
    measured = filter_quality_by_origin(table, scored.p_match, kept, scored.truth)
    return nan_to_null(found | ({"truth": measured} if measured else {}))


def _images(scored: Scored) -> dict[str, Any]:
    table, usable = scored.table, scored.table.where("status", "ok")
    found: dict[str, Any] = {
        "count": len(usable),
        "usable": int(usable.sum()),
        "with_kept_text": len(np.unique(table.row[scored.kept])),
        "skipped": skipped(table),
    }
    if scored.images is not None:
        exact, near = (scored.images.duplicates(kind) for kind in ("exact", "near"))
        found["duplicates"] = {"exact": int(exact.sum()), "near": int((near & ~exact).sum())}
    return found


def _counts(scored: Scored, groups: dict[str, np.ndarray], label: str) -> list[dict]:
    """Returns one row for each group (bool [M]) that has texts; `label` names its first field."""
    words = scored.table.words
    rows = []
    for name, own in groups.items():
        if not own.any():
            continue
        kept = own & scored.kept
        rows.append({
            label: name,
            "count": int(own.sum()),
            "kept": int(kept.sum()),
            "kept_share": float(kept.sum() / own.sum()),
            "mean_p_match": _mean(scored.p_match[own]),
            "mean_words_kept": _mean(words[kept].astype(float)),
        })  # fmt: skip
    return rows


def _captioners(table: TextTable) -> dict[str, np.ndarray]:
    """Returns the synthetic texts, bool [M], by captioner and decoding method."""
    synthetic = table.where("origin", "synthetic")
    pairs = (
        table.model.indices.to_numpy().astype(np.int64) * len(table.method.dictionary)
        + table.method.indices.to_numpy()
    )
    models, methods = table.model.dictionary.to_pylist(), table.method.dictionary.to_pylist()
    groups = {}
    for pair in np.unique(pairs[synthetic]).tolist():
        model, method = divmod(pair, len(methods))
        name = ", ".join(filter(None, (models[model], methods[method]))) or "captioner"
        groups[name] = synthetic & (pairs == pair)
    return groups


def _most_common(codes: np.ndarray, values: list[str]) -> dict[str, np.ndarray]:
    """Returns the texts, bool [M], of the most common values, and those of all others together."""
    counts = np.bincount(codes, minlength=len(values))
    first = np.argsort(-counts, kind="stable")[:MAX_GROUPS]
    groups = {values[code] or UNKNOWN_VALUE: codes == code for code in first.tolist()}
    others = ~np.isin(codes, first)
    name = f"other ({len(values) - len(first)})"
    return groups | ({name: others} if others.any() else {})


def _histogram(scored: Scored, name: str, bins: int = 20) -> dict[str, Any]:
    """Returns counts by origin in bins of equal width over the range of a score or measure."""
    table, reduction = scored.table, scored.config.filter_reduction
    low, high = (SCORES | text_measures.RANGES)[name]
    if name in text_measures.RANGES:
        values = np.minimum(column(table, name), high)
    else:
        values = scored.p_match if name == "p_match" else reduce_filters(table, name, reduction)
    edges = np.linspace(low, high, bins + 1)
    found: dict[str, Any] = {"edges": edges.round(6).tolist()}
    for origin in ORIGINS:
        own = values[table.where("origin", origin)]
        found[origin] = np.histogram(own[~np.isnan(own)], edges)[0].tolist()
    return found


def _measures(scored: Scored) -> dict[str, dict]:
    """Returns the histogram of each measure that any text has."""
    found = {name: _histogram(scored, name) for name in text_measures.RANGES}
    return {name: x for name, x in found.items() if any(any(x[origin]) for origin in ORIGINS)}


def _extra_scores(table: TextTable, bins: int = 20) -> dict[str, dict]:
    """Returns counts of images in bins of equal width over the values of each extra score."""
    found = {}
    for number, name in enumerate(table.extra_names):
        values = table.extra_scores[:, number]
        counts, edges = np.histogram(values[~np.isnan(values)], bins)
        found[name] = {"edges": edges.round(6).tolist(), "images": counts.tolist()}
    return found


def distributions_of(found: Mapping[str, Any], rules: SelectionRules) -> dict[str, Any]:
    """Returns what the report shows of the statistics beside the filter's scores (page.py)."""
    shown = found["measures"] | found["extra_scores"]
    given = rules.minimums, rules.maximums
    limits = {name: [x[name] for x in given if name in x] for name in shown}
    return {"histograms": shown, "limits": limits, "languages": found.get("languages", ())}


def sweep(scored: Scored, thresholds: Sequence[float]) -> list[dict]:
    """Counts what other thresholds on P(match) would keep, all other rules unchanged.

    Returns: one row for each threshold and origin: the texts 'kept' and their 'kept_share', and
      'precision' and 'recall' over the texts of known truth.
    """
    table, rows = scored.table, []
    for threshold in thresholds:
        other = dict.fromkeys(scored.config.thresholds, threshold)
        config = dataclasses.replace(scored.config, thresholds=other)
        kept = select_texts(table, config, scored.images) == KEPT
        for origin in config.thresholds:
            own = table.where("origin", origin)
            known = own & (scored.truth != UNKNOWN)
            row = {
                "threshold": float(threshold),
                "origin": origin,
                "kept": int(kept[own].sum()),
                "kept_share": _mean(kept[own].astype(float)),
            }
            if known.any():
                found = filtering.decision_scores(kept[known], scored.truth[known] == TRUE)
                row |= {name: found[name] for name in ("precision", "recall")}
            rows.append(row)
    return nan_to_null(rows)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan
