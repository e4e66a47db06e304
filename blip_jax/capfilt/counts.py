"""Counts the texts of one part of a scored dataset, so that the counts of parts can be added.

Counts are nested dicts whose leaves are numbers and lists of numbers; statistics.py makes shares,
means and tables of their sum. Legend: N images, M texts (table.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.capfilt import text_measures
from blip_jax.capfilt.image_index import Images
from blip_jax.capfilt.selection import KEPT, SelectionRules, probability
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import TextTable, column, reduce_filters, skipped

SCORES = {"p_match": (0.0, 1.0), "cosine": (-1.0, 1.0)}  # score: range of its histogram
BINS = 20
# Numbers of a group of texts: how many there are, are kept, have a P(match), and are kept and have
# words; with the sums of both.
TALLY = ("count", "kept", "scored", "p_match", "words_kept")


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scored texts, of a whole dataset or of a part of it, with the decisions on them.

    Attributes:
      table: the texts.
      rules: of the selection.
      decision: int16 [M], of `selection.select_texts`.
      images: the index of the table's images; None if there is none.
    """

    table: TextTable
    rules: SelectionRules
    decision: np.ndarray
    images: Images | None = None

    @property
    def kept(self) -> np.ndarray:
        return self.decision == KEPT

    @property
    def p_match(self) -> np.ndarray:
        return probability(self.table, self.rules)


def add_counts(one: Any, other: Any) -> Any:
    """Returns the sum of two counts; what only one has is as it is there."""
    if isinstance(one, dict):
        same = {
            name: add_counts(value, other[name]) for name, value in one.items() if name in other
        }
        return one | other | same
    if isinstance(one, list):
        return [add_counts(*pair) for pair in zip(one, other, strict=True)]
    return one + other


def count_texts(
    scored: Scored,
    identify_languages: bool = False,
    extra_ranges: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Returns the counts of a part.

    Args:
      identify_languages: count texts by language even if no rule needs it.
      extra_ranges: lowest and highest value of each extra score in the whole dataset; None: in
        this part (`extra_score_ranges`).

    Raises:
      UserError: languages cannot be identified.
    """
    table, rules = scored.table, scored.rules
    if extra_ranges is None:
        extra_ranges = extra_score_ranges(table)
    return {
        "images": _images(scored),
        "skipped": skipped(table),
        "decisions": _decisions(scored),
        "groups": _groups(scored, identify_languages or bool(rules.languages)),
        "scores": {name: _histogram(scored, name) for name in SCORES},
        "measures": {name: _histogram(scored, name) for name in text_measures.RANGES},
        "extra_scores": {
            name: np.histogram(_known(extra_score(table, name)), bin_edges(limits))[0].tolist()
            for name, limits in extra_ranges.items()
        },
        "filters": {
            name: [int(table.scored.sum()), float(table.p_match[table.scored, i].sum(dtype=float))]
            for i, name in enumerate(table.filters)
        },
    }


def extra_score_ranges(table: TextTable) -> dict[str, list[float]]:
    """Returns the lowest and highest value of each extra score that any image has."""
    found = {name: _known(extra_score(table, name)) for name in table.extra_names}
    return {name: [float(x.min()), float(x.max())] for name, x in found.items() if x.size}


def bin_edges(limits: Sequence[float]) -> np.ndarray:
    """Returns float64 [BINS + 1]: edges of a histogram's bins of equal width over a range."""
    return np.histogram_bin_edges(np.array(limits, np.float64), BINS)


def extra_score(table: TextTable, name: str) -> np.ndarray:
    """Returns float32 [N], an extra score."""
    return table.extra_scores[:, table.extra_names.index(name)]


def _images(scored: Scored) -> dict[str, int]:
    table, usable = scored.table, scored.table.where("status", "ok")
    found = {
        "count": len(usable),
        "usable": int(usable.sum()),
        "with_kept_text": len(np.unique(table.row[scored.kept])),
    }
    if scored.images is not None:
        exact, near = (scored.images.duplicates(kind) for kind in ("exact", "near"))
        found |= {"exact": int(exact.sum()), "near": int((near & ~exact).sum())}
    return found


def _decisions(scored: Scored) -> dict[str, dict[str, int]]:
    names = scored.rules.decisions
    found = {}
    for origin in ORIGINS:
        own = scored.decision[scored.table.where("origin", origin)]
        found[origin] = dict(zip(names, np.bincount(own, minlength=len(names)).tolist()))
    return found


def _groups(scored: Scored, with_languages: bool) -> dict[str, dict[str, dict]]:
    """Returns the tallies of the texts by origin, captioner, source, …, of values that there are.

    "" is an unknown source, licence or language, and no opt-out field.
    """
    table, p_match = scored.table, scored.p_match
    has_score, words = ~np.isnan(p_match), table.words
    columns = {
        "count": np.ones(len(p_match)),
        "kept": scored.kept,
        "scored": has_score,
        "p_match": np.where(has_score, p_match, 0),
        "words_kept": np.where(scored.kept, words, 0),
    }

    def tallies(codes: np.ndarray, values: Sequence[str]) -> dict[str, dict]:
        sums = {
            name: np.bincount(codes, columns[name], minlength=len(values)).tolist()
            for name in TALLY
        }
        found: dict[str, dict] = {}
        for code in np.flatnonzero(sums["count"]).tolist():
            tally = {name: sums[name][code] for name in TALLY}
            found[values[code]] = add_counts(found.get(values[code], {}), tally)
        return found

    def coded(column) -> tuple[np.ndarray, list[str]]:
        return column.indices.to_numpy(), column.dictionary.to_pylist()

    found = {"texts": tallies(*coded(table.origin)), "captioners": tallies(*_captioners(table))}
    found["captioners"].pop("", None)  # texts of the web
    if scored.images is not None:
        for name in ("source", "license", "opt_out"):
            codes, values = scored.images.strings(name)
            found[f"{name}s"] = tallies(codes[table.row], values)
    if with_languages:
        found["languages"] = tallies(*coded(table.language))
    return found


def _captioners(table: TextTable) -> tuple[np.ndarray, list[str]]:
    """Returns codes, int [M], and their values: captioner and decoding method; "": of the web."""
    models, methods = table.model.dictionary.to_pylist(), table.method.dictionary.to_pylist()
    codes = table.model.indices.to_numpy().astype(np.int64) * len(methods)
    codes = codes + table.method.indices.to_numpy() + 1
    codes[~table.where("origin", "synthetic")] = 0
    pairs = [", ".join(filter(None, (x, y))) or "captioner" for x in models for y in methods]
    return codes, ["", *pairs]


def _histogram(scored: Scored, name: str) -> dict[str, list[int]]:
    """Returns counts by origin in bins of equal width over the range of a score or measure."""
    table, reduction = scored.table, scored.rules.filter_reduction
    low, high = (SCORES | text_measures.RANGES)[name]
    if name in text_measures.RANGES:
        values = np.minimum(column(table, name), high)
    else:
        values = scored.p_match if name == "p_match" else reduce_filters(table, name, reduction)
    edges = bin_edges((low, high))
    own = {origin: _known(values[table.where("origin", origin)]) for origin in ORIGINS}
    return {origin: np.histogram(x, edges)[0].tolist() for origin, x in own.items()}


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
