"""Visual dialog: ranks of the right answers among the options, NDCG, and the submission file.

Legend: Q questions (rounds of dialogs), C candidate answers each (100 in VisDial v1.0). Where
candidates have the same score every value is the *expectation* over a random order of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_jax.metrics import uncertainty
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.runtime.errors import UserError

KS = (1, 5, 10)


def rank_values(scores: Any, answer_index: Any) -> dict[str, np.ndarray]:
    """Returns what each question adds to the mean reciprocal rank, recall at k and the mean rank.

    Args:
      scores: float [Q, C], larger is better.
      answer_index: int [Q], column of the right answer; below 0: unknown.

    Returns:
      `mrr`, `r@1`, `r@5`, `r@10` from 0 to 1, and `mean_rank` from 1 to C, float [Q] each; nan
      where the answer is unknown.

    Raises:
      UserError: shapes do not match, a score is NaN, or an index is out of range.
    """
    scores = _checked(scores)
    index = np.asarray(answer_index)
    if index.shape != scores.shape[:1] or index.dtype.kind not in "iu" and index.size:
        raise UserError(
            f"answer_index has shape {index.shape} and type {index.dtype}; expected an integer for "
            f"each of {len(scores)} questions"
        )
    if index.size and index.max() >= scores.shape[1]:
        raise UserError(
            f"answer_index has {index.max()}, but questions have {scores.shape[1]} candidates"
        )
    known = np.flatnonzero(index >= 0)
    block = scores[known]
    right = block[np.arange(len(known)), index[known].astype(np.int64)][:, None]
    above = (block > right).sum(axis=1)
    tied = (block == right).sum(axis=1)  # the right answer included
    # The sum of 1/rank over ranks above + 1 to above + tied, of partial sums of 1/1 + 1/2 + …
    partial = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, scores.shape[1] + 1))])
    values = {"mrr": (partial[above + tied] - partial[above]) / tied}
    values |= {f"r@{k}": np.clip((k - above) / tied, 0, 1) for k in KS}
    values["mean_rank"] = above + (tied + 1) / 2
    return {name: _spread(part, known, len(scores)) for name, part in values.items()}


def ndcg(scores: Any, relevance: Any) -> np.ndarray:
    """Returns the normalised discounted cumulative gain of each question, float [Q] from 0 to 1.

    Of a question with R candidates of relevance above 0, the first R of the ranking count, as in
    the VisDial challenge.

    Args:
      scores: float [Q, C], larger is better.
      relevance: float [Q, C], 0 or more; a row of NaN: not annotated. The result is nan for these,
        and where no candidate is relevant.

    Raises:
      UserError: shapes do not match, a score is NaN, or a relevance is negative or partly NaN.
    """
    scores, relevance = _checked(scores), np.asarray(relevance, np.float64)
    if relevance.shape != scores.shape:
        raise UserError(f"relevance is {relevance.shape}, but scores are {scores.shape}")
    missing = np.isnan(relevance)
    if (missing.any(axis=1) != missing.all(axis=1)).any() or (relevance < 0).any():
        raise UserError(
            "relevance has a negative value, or NaN in part of a row; give 0 or more for each "
            "candidate, or NaN for all candidates of a question without annotation"
        )
    known = np.flatnonzero((relevance > 0).any(axis=1))
    block, gain = scores[known], relevance[known]
    discount = 1 / np.log2(np.arange(scores.shape[1]) + 2)
    counts = (gain > 0).sum(axis=1)
    weight = np.where(np.arange(scores.shape[1]) < counts[:, None], discount, 0)
    expected = _expected_gains(block, gain)
    best = -np.sort(-gain, axis=1)
    return _spread((expected * weight).sum(1) / (best * weight).sum(1), known, len(scores))


def visdial_metrics(
    scores: Any, answer_index: Any, relevance: Any | None = None
) -> dict[str, Estimate]:
    """Returns the metrics of VisDial: all in percent but `mean_rank`, where less is better.

    Args:
      scores: float [Q, C]; answer_index: int [Q]; see `rank_values`.
      relevance: float [Q, C] or None; see `ndcg`. In v1.0 one round a dialog is annotated.

    Returns:
      `mrr`, `r@1`, `r@5`, `r@10`, `mean_rank` and `ndcg`; without those of which no question has an
      annotation.

    Raises:
      UserError: as `rank_values` and `ndcg`.
    """
    values = rank_values(scores, answer_index)
    if relevance is not None:
        values["ndcg"] = ndcg(scores, relevance)
    return {
        name: uncertainty.mean(part, scale=1 if name == "mean_rank" else 100)
        for name, part in values.items()
        if not np.isnan(part).all()
    }


def ranks(scores: Any) -> np.ndarray:
    """Returns the rank of each candidate, int64 [Q, C] from 1 (best); of equals the first leads.

    Raises:
      UserError: `scores` is no matrix, or has NaN.
    """
    order = np.argsort(-_checked(scores), axis=1, kind="stable")
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(1, order.shape[1] + 1)[None, :], axis=1)
    return found


def submission(
    image_ids: Sequence[int], round_ids: Sequence[int], scores: Any
) -> list[dict[str, Any]]:
    """Returns what VisDial's evaluation server takes: [{"image_id", "round_id", "ranks"}, …].

    Args:
      image_ids: integer of each question's image.
      round_ids: of each question, 1 to 10.
      scores: float [Q, C], larger is better.

    Returns:
      A dict of plain numbers for each question; "ranks" holds the rank of each candidate.

    Raises:
      UserError: not one image and round for each row of scores, an id that is no integer, a
        round below 1, or a question twice.
    """
    found = ranks(scores)
    if not len(image_ids) == len(round_ids) == len(found):
        raise UserError(
            f"{len(image_ids)} image ids and {len(round_ids)} round ids for scores of "
            f"{len(found)} questions: give one of each for each question"
        )
    entries, seen = [], set()
    for image, number, row in zip(image_ids, round_ids, found):
        try:
            place = int(str(image)), int(str(number))
        except ValueError:
            raise UserError(f"image id {image!r}, round {number!r}: expected integers") from None
        if place[1] < 1 or place in seen:
            fault = "occurs twice" if place in seen else "is none: rounds count from 1"
            raise UserError(f"round {place[1]} of image {place[0]} {fault}")
        seen.add(place)
        entries.append({"image_id": place[0], "round_id": place[1], "ranks": row.tolist()})
    return entries


def _expected_gains(scores: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Returns the gain expected at each place of the ranking: the mean over those tied there."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    gain = np.take_along_axis(gain, order, axis=1)
    starts = np.ones(ranked.shape, bool)
    starts[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    group = np.cumsum(starts) - 1  # number of the group of equals, over all rows, flat
    totals = np.bincount(group, weights=gain.ravel())
    return (totals / np.bincount(group))[group].reshape(gain.shape) if group.size else gain


def _spread(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Returns float [count] with `values` at `rows` and nan elsewhere."""
    found = np.full(count, np.nan)
    found[rows] = values
    return found


def _checked(scores: Any) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise UserError(f"scores have shape {scores.shape}; expected [questions, candidates]")
    if bad := int(np.isnan(scores).sum()):
        raise UserError(f"scores have {bad} NaN of {scores.size}; check whether the model diverged")
    return scores
