"""Selects texts of a scored dataset by thresholds and other rules; needs no model.

Legend: N images, M texts, F filters (table.py).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from blip_jax.capfilt.image_index import DUPLICATES, Images
from blip_jax.capfilt.share_limits import Ranked, ShareLimit, find_limits, rank_texts
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import TextTable, column, reduce_filters
from blip_jax.metrics import filtering
from blip_jax.runtime.errors import UserError

THRESHOLD = 0.5
# The decisions of `select_texts` in the order of the tests; the first that applies is taken. Those
# of `minimums` and `maximums` follow, but are tested before the last one here.
DECISIONS = (
    "kept",
    "image cannot be used",
    "empty text",
    "origin left out",
    "source left out",
    "language left out",
    "duplicate image",
    "P(match) below the threshold",
    "cosine below the minimum",
    "not in the best share of its length",
    "more than max_texts_per_image",
)
KEPT = 0


@dataclasses.dataclass(frozen=True)
class SelectionRules:
    """Rules for keeping texts. The default is the paper's: P(match) of the ITM head >= 0.5.

    Attributes:
      thresholds: minimum P(match) of each origin; None keeps all texts that have a score. Texts of
        an origin that is not named are dropped.
      shares: for each origin, the share of the texts of each number of words that is kept, of
        those that pass the other rules: the highest P(match). Origins that are not named: all.
      max_texts_per_image: keep at most this number of texts of an image, those of the highest
        P(match); equal texts count once. 0: all.
      min_cosine: minimum cosine of the ITC features; None: any.
      minimums, maximums: limits of columns (`column`) by name; texts without a value pass.
      filter_reduction: the P(match) and cosine of several filters: the name of one filter, or
        "mean" or "min" over all.
      languages: codes of languages (`TextTable.language`) that are kept; (): all.
      duplicates: "keep" all images; keep only the first of images with equal bytes ("exact"), or
        also of images that look the same ("near").
      source_weights: how often a text of a source is sampled relative to texts of other sources,
        which have 1; 0 drops the source.
      calibration: for each origin a fit (`filtering.fit_calibration`) that is applied to P(match)
        before the thresholds; origins that are not named are used as scored.
    """

    thresholds: Mapping[str, float | None] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(ORIGINS, THRESHOLD)
    )
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_texts_per_image: int = 0
    min_cosine: float | None = None
    filter_reduction: str = "mean"
    minimums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    maximums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    languages: Sequence[str] = ()
    duplicates: str = "keep"
    source_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Raises a UserError that names the value that is out of range."""
        unknown = sorted((set(self.thresholds) | set(self.shares)) - set(ORIGINS))
        if unknown:
            raise UserError(f"unknown origin {unknown[0]!r}; expected {', '.join(ORIGINS)}")
        if bad := [x for x in self.shares.values() if not 0 <= x <= 1]:
            raise UserError(f"a share is {bad[0]}; expected 0 to 1")
        given = {f"the threshold of {name}": x for name, x in self.thresholds.items()}
        for name, value in {**given, "min_cosine": self.min_cosine}.items():
            if value is not None and math.isnan(value):
                raise UserError(f"{name} is NaN; expected a number")
        for origin, fit in self.calibration.items():
            if not _is_fit(fit):
                raise UserError(
                    f"the calibration of {origin!r} texts is no fit: expected increasing p_match "
                    "and as many true_share, all 0 to 1"
                )
        if self.max_texts_per_image < 0:
            raise UserError(
                f"max_texts_per_image is {self.max_texts_per_image}; expected 0 (all) or more"
            )
        if self.duplicates not in DUPLICATES:
            raise UserError(
                f"duplicates is {self.duplicates!r}; expected one of {', '.join(DUPLICATES)}"
            )
        for source, weight in self.source_weights.items():
            if not 0 <= weight < np.inf:
                raise UserError(f"the weight of source {source!r} is {weight}; expected 0 or more")

    @property
    def decisions(self) -> tuple[str, ...]:
        """Returns the names of the decisions of `select_texts`."""
        return (
            *DECISIONS,
            *(f"{name} below its minimum" for name in self.minimums),
            *(f"{name} above its maximum" for name in self.maximums),
        )


def _is_fit(fit: Any) -> bool:
    """Returns whether a value is what `filtering.fit_calibration` returns."""
    try:
        p_match, share = (np.array(fit[name], np.float64) for name in ("p_match", "true_share"))
    except (KeyError, TypeError, ValueError):
        return False
    is_share = [((x >= 0) & (x <= 1)).all() for x in (p_match, share)]  # False for NaN
    return bool(p_match.ndim == 1 <= p_match.size and p_match.shape == share.shape
                and all(is_share) and (np.diff(p_match) >= 0).all())  # fmt: skip


def select_texts(
    table: TextTable,
    rules: SelectionRules,
    images: Images | None = None,
    limits: Mapping[str, ShareLimit] | None = None,
) -> np.ndarray:
    """Returns the decision on each text: int16 [M], an index into `rules.decisions`.

    Args:
      images: the index of the images, which rules about duplicates and sources need.
      limits: of each origin in `rules.shares`, where the table is a part of a dataset; None: it is
        whole.

    Raises:
      UserError: the rules name an unknown filter or column, or need `images` or cosines.
    """
    p_match = probability(table, rules)
    decision = _apply_single_rules(table, rules, images, p_match)
    if limits is None:
        ranks = _rank(table, rules, decision, p_match)
        limits = {x: find_limits(lambda x=x: [ranks[x]], rules.shares[x])[0] for x in ranks}
    for origin in rules.shares:
        left = np.flatnonzero(table.where("origin", origin) & (decision == KEPT))
        chosen = limits[origin].passes(table.words[left], p_match[left])
        decision[left[~chosen]] = DECISIONS.index("not in the best share of its length")
    if rules.max_texts_per_image:
        left = np.flatnonzero(decision == KEPT)
        chosen = _highest_scored(table, left, p_match, rules.max_texts_per_image)
        decision[left[~chosen]] = DECISIONS.index("more than max_texts_per_image")
    return decision


def rank_for_shares(
    table: TextTable, rules: SelectionRules, images: Images | None = None
) -> dict[str, Ranked]:
    """Returns for each origin in `rules.shares` the texts that its share is of, ranked.

    Raises:
      UserError: as `select_texts`.
    """
    p_match = probability(table, rules)
    return _rank(table, rules, _apply_single_rules(table, rules, images, p_match), p_match)


def _rank(
    table: TextTable, rules: SelectionRules, decision: np.ndarray, p_match: np.ndarray
) -> dict[str, Ranked]:
    found = {}
    for origin in rules.shares:
        left = table.where("origin", origin) & (decision == KEPT)
        found[origin] = rank_texts(table.words[left], p_match[left])
    return found


def _apply_single_rules(
    table: TextTable, rules: SelectionRules, images: Images | None, p_match: np.ndarray
) -> np.ndarray:
    """Returns int16 [M], the decisions of the rules that look at one text alone."""
    decision = np.zeros(len(p_match), np.int16)

    def drop(which: np.ndarray, reason: str) -> None:
        decision[which & (decision == KEPT)] = rules.decisions.index(reason)

    drop(~table.where("status", "ok")[table.row], "image cannot be used")
    drop(np.isnan(p_match), "empty text")
    minimum = np.full(len(p_match), np.nan)  # comparisons with NaN are False
    for origin, threshold in rules.thresholds.items():
        own = table.where("origin", origin)
        minimum[own] = -np.inf if threshold is None else threshold
    drop(np.isnan(minimum), "origin left out")
    if rules.source_weights or rules.duplicates != "keep":
        if images is None:
            raise UserError(
                "duplicates and source weights need index.parquet in the images' folder, and there "
                "is no such file; build the dataset with `blip-jax prepare`"
            )
        weights = images.weights(rules.source_weights)
        drop((weights == 0)[table.row], "source left out")
        drop(images.duplicates(rules.duplicates)[table.row], "duplicate image")
    if rules.languages:
        found = [table.where("language", code) for code in rules.languages]
        drop(~np.any(found, axis=0), "language left out")
    drop(~(p_match >= minimum), "P(match) below the threshold")
    if rules.min_cosine is not None:
        cosine = reduce_filters(table, "cosine", rules.filter_reduction)
        if table.scored.any() and np.isnan(cosine).all():
            raise UserError("min_cosine needs a filter that is a model; plug-ins give no cosine")
        drop(~(cosine >= rules.min_cosine), "cosine below the minimum")
    for name, least in rules.minimums.items():
        drop(column(table, name) < least, f"{name} below its minimum")
    for name, most in rules.maximums.items():
        drop(column(table, name) > most, f"{name} above its maximum")
    return decision


def probability(table: TextTable, rules: SelectionRules) -> np.ndarray:
    """Returns float64 [M]: P(match), reduced over filters and calibrated; NaN if unscored."""
    found = reduce_filters(table, "p_match", rules.filter_reduction)
    for origin, fit in rules.calibration.items():
        own = table.where("origin", origin)
        found[own] = filtering.calibrated(found[own], fit)
    return found


def _highest_scored(
    table: TextTable, texts: np.ndarray, p_match: np.ndarray, count: int
) -> np.ndarray:
    """Returns bool [len(texts)]: the `count` best of each image, and of equal texts the first.

    Args:
      texts: int [any], indices of the texts to choose from.
    """
    row = table.row[texts].astype(np.int64)
    order = np.lexsort((table.index[texts], -p_match[texts], row))
    text = table.text.take(pa.array(texts)).dictionary_encode().indices.to_numpy()[order]
    row = row[order]
    _, first = np.unique(row * (text.max(initial=0) + 1) + text, return_index=True)
    is_first = np.zeros(len(texts), bool)
    is_first[first] = True
    # The rank of each text among the different texts of its row.
    counted = np.cumsum(is_first)
    starts = np.searchsorted(row, row)  # where the row of each text begins
    rank = counted - (counted[starts] - is_first[starts])
    chosen = np.zeros(len(texts), bool)
    chosen[order] = is_first & (rank <= count)
    return chosen
