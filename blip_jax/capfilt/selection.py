"""Which of the scored texts are kept: rules over what is stored, at the cost of no inference.

Legend: N images, M texts, F filters (columns.py).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from blip_jax.capfilt.image_index import DUPLICATES, Images
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import Columns
from blip_jax.metrics import filtering
from blip_jax.runtime.errors import UserError

THRESHOLD = 0.5
# What `decide` says of a text, in the order in which it is asked; the first that applies is said.
VERDICTS = (
    "kept",
    "image cannot be used",
    "empty text",
    "origin left out",
    "source left out",
    "duplicate image",
    "P(match) below the threshold",
    "cosine below the floor",
    "not among the best",
)
KEPT = 0
OVER_ALL = {"mean": np.mean, "min": np.min}


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a text needs to be kept. The default is the paper's: ITM's softmax says P(match) >= 0.5.

    Attributes:
      thresholds: least P(match) of each origin; None keeps all that has a score, an origin that
        is not named is left out.
      best: so many texts an image at most, those of the highest P(match); a text that is there
        twice counts once. 0: all.
      cosine: least cosine of the ITC features; None: any.
      judge: which filter decides where there are several: its name, or "mean" or "min" over all.
      duplicates: of images: "keep" them all, or only the first of those that are the same byte
        by byte ("exact"), or that look the same, too ("near").
      weights: how often a text of a source is drawn against one of another; 1 where none is
        named, 0 leaves the source out.
      calibration: of each origin a fit (`filtering.fit_calibration`), by which what the judge says
        becomes the P(match) of these rules; an origin that is not named keeps it.
    """

    thresholds: Mapping[str, float | None] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(ORIGINS, THRESHOLD)
    )
    best: int = 0
    cosine: float | None = None
    judge: str = "mean"
    duplicates: str = "keep"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Raises a UserError that names what is out of range."""
        unknown = sorted(set(self.thresholds) - set(ORIGINS))
        if unknown:
            raise UserError(f"unknown origin {unknown[0]!r}; known: {', '.join(ORIGINS)}")
        if self.best < 0:
            raise UserError(f"best is {self.best}; it must be 0 (all) or more")
        if self.duplicates not in DUPLICATES:
            known = ", ".join(DUPLICATES)
            raise UserError(f"duplicates is {self.duplicates!r}; it must be one of {known}")
        for source, weight in self.weights.items():
            if not 0 <= weight < np.inf:
                raise UserError(
                    f"the weight of source {source!r} is {weight}; it must be 0 or more"
                )


def decide(columns: Columns, rules: Rules, images: Images | None = None) -> np.ndarray:
    """What becomes of each text: int8 [M], an index into VERDICTS.

    Args:
      images: what is known of the images; rules about duplicates and sources need it.

    Raises:
      UserError: the rules name a filter or source that is not there, or need `images`.
    """
    p_match = probability(columns, rules)
    verdict = np.zeros(len(p_match), np.int8)

    def drop(which: np.ndarray, why: str) -> None:
        verdict[which & (verdict == KEPT)] = VERDICTS.index(why)

    drop(~columns.where("status", "ok")[columns.row], "image cannot be used")
    drop(np.isnan(p_match), "empty text")
    least = np.full(len(p_match), np.nan)  # comparisons with NaN are False
    for origin, threshold in rules.thresholds.items():
        own = columns.where("origin", origin)
        least[own] = -np.inf if threshold is None else threshold
    drop(np.isnan(least), "origin left out")
    if rules.weights or rules.duplicates != "keep":
        if images is None:
            raise UserError(
                "duplicates and sources are known of datasets that `blip-jax prepare` has built: "
                "there is no index.parquet beside the images"
            )
        weights = images.weights(rules.weights)
        drop((weights == 0)[columns.row], "source left out")
        drop(images.duplicates(rules.duplicates)[columns.row], "duplicate image")
    drop(~(p_match >= least), "P(match) below the threshold")
    if rules.cosine is not None:
        cosine = judged(columns, "cosine", rules.judge)
        drop(~(cosine >= rules.cosine), "cosine below the floor")
    if rules.best:
        left = np.flatnonzero(verdict == KEPT)
        worse = left[~_best(columns, left, p_match, rules.best)]
        verdict[worse] = VERDICTS.index("not among the best")
    return verdict


def probability(columns: Columns, rules: Rules) -> np.ndarray:
    """float64 [M]: P(match) as the rules have it; NaN where a text has none."""
    found = judged(columns, "p_match", rules.judge)
    for origin, fit in rules.calibration.items():
        own = columns.where("origin", origin)
        found[own] = filtering.calibrated(found[own], fit)
    return found


def judged(columns: Columns, score: str, judge: str) -> np.ndarray:
    """float64 [M]: "p_match" or "cosine" by the filter that decides; NaN where it has none.

    Raises:
      UserError: there is no such filter.
    """
    values = getattr(columns, score)
    if judge in columns.filters:
        return values[:, columns.filters.index(judge)].astype(np.float64)
    if judge not in OVER_ALL:
        known = ", ".join((*OVER_ALL, *columns.filters))
        raise UserError(f"there is no filter {judge!r}; known: {known}")
    return OVER_ALL[judge](values.astype(np.float64), axis=1)


def _best(columns: Columns, places: np.ndarray, p_match: np.ndarray, count: int) -> np.ndarray:
    """bool [len(places)]: the `count` best of each image, of equal texts the first."""
    row = columns.row[places].astype(np.int64)
    order = np.lexsort((columns.index[places], -p_match[places], row))
    text = columns.text.take(pa.array(places)).dictionary_encode().indices.to_numpy()[order]
    row = row[order]
    _, first = np.unique(row * (text.max(initial=0) + 1) + text, return_index=True)
    once = np.zeros(len(places), bool)
    once[first] = True
    # Each text's place among those of its row that are said for the first time.
    said = np.cumsum(once)
    starts = np.searchsorted(row, row)  # where the row of each begins
    rank = said - (said[starts] - once[starts])
    chosen = np.zeros(len(places), bool)
    chosen[order] = once & (rank <= count)
    return chosen
