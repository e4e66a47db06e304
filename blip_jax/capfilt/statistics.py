"""What an assembled dataset holds and where the rest went, as plain numbers: statistics.json.

Legend: N images, M texts, F filters (columns.py).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from blip_jax.capfilt import filter_quality
from blip_jax.capfilt.image_index import Images
from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.selection import KEPT, VERDICTS, Rules, decide, judged, probability
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import Columns, skipped
from blip_jax.metrics import filtering

_MOST = 20  # sources, licences and captioners that are listed; the rest are summed up
SCORES = {"p_match": (0.0, 1.0), "cosine": (-1.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Scored:
    """A scored dataset, what was decided about it, and what is known of it besides.

    Attributes:
      columns: its texts.
      rules: what was asked of them.
      verdict: int8 [M], of `rules.decide`.
      truth: int8 [M] (truth.py).
      images: what is known of its images; None for nothing.
    """

    columns: Columns
    rules: Rules
    verdict: np.ndarray
    truth: np.ndarray
    images: Images | None

    @property
    def kept(self) -> np.ndarray:
        return self.verdict == KEPT

    @property
    def p_match(self) -> np.ndarray:
        return probability(self.columns, self.rules)


def gather(scored: Scored) -> dict[str, Any]:
    """All that statistics.json holds but where it comes from; numbers of JSON's kinds."""
    columns, kept = scored.columns, scored.kept
    found = {
        "images": _images(scored),
        "texts": _counts(scored, {name: columns.where("origin", name) for name in ORIGINS}),
        "verdicts": [
            {"verdict": why}
            | {
                name: int((columns.where("origin", name) & (scored.verdict == code)).sum())
                for name in ORIGINS
            }
            for code, why in enumerate(VERDICTS)
            if (scored.verdict == code).any()
        ],
        "captioners": _counts(scored, _captioners(columns)),
        "scores": {name: _histogram(scored, name) for name in SCORES},
        "rules": dataclasses.asdict(scored.rules),
    }
    for name in ("source", "license"):
        if scored.images is not None:
            codes, values = scored.images.strings(name)
            found[f"{name}s"] = _counts(scored, _commonest(codes[columns.row], values))
    if len(columns.filters) > 1:
        found["filters"] = [
            {"filter": name, "mean P(match)": _mean(columns.p_match[:, i][columns.scored])}
            for i, name in enumerate(columns.filters)
        ]
    measured = filter_quality.measure(columns, scored.p_match, kept, scored.truth)
    return strict(found | ({"truth": measured} if measured else {}))


def _images(scored: Scored) -> dict[str, Any]:
    columns, usable = scored.columns, scored.columns.where("status", "ok")
    found: dict[str, Any] = {
        "count": len(usable),
        "usable": int(usable.sum()),
        "with a kept text": len(np.unique(columns.row[scored.kept])),
        "skipped": skipped(columns),
    }
    if scored.images is not None:
        exact, near = (scored.images.duplicates(kind) for kind in ("exact", "near"))
        found["duplicates"] = {"exact": int(exact.sum()), "near": int((near & ~exact).sum())}
    return found


def _counts(scored: Scored, groups: dict[str, np.ndarray]) -> list[dict]:
    """A row a group (bool [M]) that has texts."""
    words = pc.add(pc.count_substring(scored.columns.text, " "), 1).to_numpy()
    rows = []
    for name, own in groups.items():
        if not own.any():
            continue
        kept = own & scored.kept
        rows.append({
            "texts": name,
            "count": int(own.sum()),
            "kept": int(kept.sum()),
            "kept share": float(kept.sum() / own.sum()),
            "mean P(match)": _mean(scored.p_match[own]),
            "words, kept": _mean(words[kept].astype(float)),
        })  # fmt: skip
    return rows


def _captioners(columns: Columns) -> dict[str, np.ndarray]:
    """The synthetic texts by captioner and way of decoding."""
    written = columns.where("origin", "synthetic")
    pairs = (
        columns.model.indices.to_numpy().astype(np.int64) * len(columns.method.dictionary)
        + columns.method.indices.to_numpy()
    )
    models, methods = columns.model.dictionary.to_pylist(), columns.method.dictionary.to_pylist()
    groups = {}
    for pair in np.unique(pairs[written]).tolist():
        model, method = divmod(pair, len(methods))
        name = ", ".join(filter(None, (models[model], methods[method]))) or "captioner"
        groups[name] = written & (pairs == pair)
    return groups


def _commonest(codes: np.ndarray, values: list[str]) -> dict[str, np.ndarray]:
    """The texts of the commonest values of a column, and those of the rest together."""
    counts = np.bincount(codes, minlength=len(values))
    first = np.argsort(-counts, kind="stable")[:_MOST]
    groups = {values[code] or "(none said)": codes == code for code in first.tolist()}
    rest = ~np.isin(codes, first)
    return groups | ({f"{len(values) - len(first)} others": rest} if rest.any() else {})


def _histogram(scored: Scored, name: str, bins: int = 20) -> dict[str, Any]:
    """Counts by origin in bins of equal width over the score's range."""
    columns = scored.columns
    judge = scored.rules.judge
    values = scored.p_match if name == "p_match" else judged(columns, name, judge)
    edges = np.linspace(*SCORES[name], bins + 1)
    found: dict[str, Any] = {"edges": edges.round(6).tolist()}
    for origin in ORIGINS:
        own = values[columns.where("origin", origin)]
        found[origin] = np.histogram(own[~np.isnan(own)], edges)[0].tolist()
    return found


def sweep(scored: Scored, thresholds: Sequence[float]) -> list[dict]:
    """What other thresholds on P(match) would keep, all other rules as they are.

    Returns: a row a threshold and origin: texts 'kept' and their 'kept share', and 'precision' and
      'recall' over the texts of which the truth is known.
    """
    columns, rows = scored.columns, []
    for threshold in thresholds:
        other = dict.fromkeys(scored.rules.thresholds, threshold)
        rules = dataclasses.replace(scored.rules, thresholds=other)
        kept = decide(columns, rules, scored.images) == KEPT
        for origin in rules.thresholds:
            own = columns.where("origin", origin)
            known = own & (scored.truth != UNKNOWN)
            row = {
                "threshold": float(threshold),
                "texts": origin,
                "kept": int(kept[own].sum()),
                "kept share": _mean(kept[own].astype(float)),
            }
            if known.any():
                found = filtering.decision_scores(kept[known], scored.truth[known] == TRUE)
                row |= {name: found[name] for name in ("precision", "recall")}
            rows.append(row)
    return strict(rows)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def strict(value: Any) -> Any:
    """With None for what is not a number, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
