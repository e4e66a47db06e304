"""Shares, means and tables of an assembled dataset: statistics.json.

Legend: M texts (table.py).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.capfilt.counts import SCORES, Scored, add_counts, bin_edges
from blip_jax.capfilt.filter_quality import filter_quality_by_origin
from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.selection import SelectionRules
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.text_measures import RANGES
from blip_jax.metrics import filtering
from blip_jax.runtime.files import nan_to_null

MAX_GROUPS = 20  # sources, licences and languages that are listed; the others are summed
UNKNOWN_VALUE = "unknown"  # name of a missing source, licence or language


@dataclasses.dataclass(frozen=True)
class Sample:
    """Scored images that were drawn evenly from a dataset, for the report and the filter's quality.

    Attributes:
      rows: int [n], numbers of the images in the dataset, increasing.
      scored: their M texts.
      truth: int8 [M] (labels.py).
      swept: bool [T, M]: what the other thresholds keep (`AssembleConfig.threshold_sweep`).
    """

    rows: np.ndarray
    scored: Scored
    truth: np.ndarray
    swept: np.ndarray


def summarize(
    counts: Mapping[str, Any], extra_ranges: Mapping[str, Sequence[float]], sample: Sample
) -> dict[str, Any]:
    """Returns the content of statistics.json except where it comes from; JSON values.

    Args:
      counts: of `counts.count_texts`, of the whole dataset.
      extra_ranges: as they were counted by.
    """
    rules, groups = sample.scored.rules, counts["groups"]
    origins = {name: groups["texts"][name] for name in ORIGINS if name in groups["texts"]}
    found = {
        "images": _images(counts),
        "texts": _rows("origin", origins),
        "decisions": _decisions(counts["decisions"], rules.decisions),
        "captioners": _rows("captioner", dict(sorted(groups["captioners"].items()))),
        "scores": {x: {"edges": _edges(SCORES[x]), **counts["scores"][x]} for x in SCORES},
        "measures": {
            name: {"edges": _edges(RANGES[name]), **counted}
            for name, counted in counts["measures"].items()
            if any(map(any, counted.values()))
        },
        "extra_scores": {
            name: {"edges": _edges(limits), "images": counts["extra_scores"][name]}
            for name, limits in extra_ranges.items()
        },
        "selection": dataclasses.asdict(rules),
    }
    for name in ("source", "license", "opt_out", "language"):
        tallies = groups.get(f"{name}s")
        if tallies is None or (name == "opt_out" and not any(tallies)):
            continue
        found[f"{name}s"] = _rows(name, _most_common(tallies))
    if len(counts["filters"]) > 1:
        found["filters"] = [
            {"filter": name, "mean_p_match": _ratio(total, number)}
            for name, (number, total) in counts["filters"].items()
        ]
    scored = sample.scored
    measured = filter_quality_by_origin(scored.table, scored.p_match, scored.kept, sample.truth)
    return nan_to_null(found | ({"truth": measured} if measured else {}))


def _edges(limits: Sequence[float]) -> list[float]:
    return bin_edges(limits).round(6).tolist()


def _images(counts: Mapping[str, Any]) -> dict[str, Any]:
    found = counts["images"] | {"skipped": skipped_reasons(counts)}
    duplicates = {name: found.pop(name) for name in ("exact", "near") if name in found}
    return found | ({"duplicates": duplicates} if duplicates else {})


def skipped_reasons(counts: Mapping[str, Any]) -> dict[str, int]:
    """Returns counts of what was skipped by reason: those of images, then that of texts."""
    found = counts["skipped"]
    return {name: found[name] for name in sorted(found, key=lambda x: (x == "empty text", x))}


def _decisions(counts: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> list[dict]:
    rows = [{"decision": name} | {x: counts[x][name] for x in ORIGINS} for name in names]
    return [row for row in rows if any(row[origin] for origin in ORIGINS)]


def _rows(label: str, tallies: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """Returns one row for each group of texts; `label` names its first field."""
    return [
        {
            label: name,
            "count": int(tally["count"]),
            "kept": int(tally["kept"]),
            "kept_share": _ratio(tally["kept"], tally["count"]),
            "mean_p_match": _ratio(tally["p_match"], tally["scored"]),
            "mean_words_kept": _ratio(tally["words_kept"], tally["kept"]),
        }
        for name, tally in tallies.items()
    ]


def _most_common(tallies: Mapping[str, Mapping[str, float]]) -> dict[str, dict]:
    """Returns the tallies of the most common values, and the sum of all others'."""
    named: dict[str, Any] = {}
    for name, tally in tallies.items():
        named[name or UNKNOWN_VALUE] = add_counts(named.get(name or UNKNOWN_VALUE, {}), tally)
    order = sorted(named, key=lambda name: -named[name]["count"])
    found = {name: named[name] for name in order[:MAX_GROUPS]}
    if others := [named[name] for name in order[MAX_GROUPS:]]:
        found[f"other ({len(others)})"] = functools.reduce(add_counts, others)
    return found


def sweep(
    thresholds: Sequence[float], counts: Sequence[Mapping[str, Sequence[int]]], sample: Sample
) -> list[dict]:
    """Returns what other thresholds on P(match) would keep, all other rules unchanged.

    Args:
      counts: of each threshold, by origin, the texts that it keeps, and all.

    Returns: one row for each threshold and origin: the texts 'kept' and their 'kept_share', and
      'precision' and 'recall' over the texts of known truth.
    """
    rows = []
    for threshold, counted, kept in zip(thresholds, counts, sample.swept, strict=True):
        for origin in sample.scored.rules.thresholds:
            number, total = counted[origin]
            row = {
                "threshold": float(threshold),
                "origin": origin,
                "kept": number,
                "kept_share": _ratio(number, total),
            }
            known = sample.scored.table.where("origin", origin) & (sample.truth != UNKNOWN)
            if known.any():
                found = filtering.decision_scores(kept[known], sample.truth[known] == TRUE)
                row |= {name: found[name] for name in ("precision", "recall")}
            rows.append(row)
    return nan_to_null(rows)


def distributions_of(found: Mapping[str, Any], rules: SelectionRules) -> dict[str, Any]:
    """Returns what the report shows of the statistics beside the filter's scores (page.py)."""
    shown = found["measures"] | found["extra_scores"]
    given = rules.minimums, rules.maximums
    limits = {name: [x[name] for x in given if name in x] for name in shown}
    return {"histograms": shown, "limits": limits, "languages": found.get("languages", ())}


def _ratio(total: float, number: float) -> float:
    return total / number if number else math.nan
