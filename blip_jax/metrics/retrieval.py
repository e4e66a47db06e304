"""Image-text retrieval: recall at k in both directions, re-ranking of the top k by the ITM head.

Legend: I images, T texts, P image-text pairs to score.
"""

from collections.abc import Callable, Iterator

import numpy as np

from blip_jax.runtime.errors import UserError

KS = (1, 5, 10)
# Score of a pair outside the top k in the original's evaluation; below any real score.
UNSCORED = -100.0
_ROWS = 512  # queries at a time, so that COCO's 5,000 x 25,000 needs no second large matrix

ScoreFn = Callable[[np.ndarray, np.ndarray], np.ndarray]


def recall(scores, image_of_text, scores_t2i=None) -> dict[str, float]:
    """Returns recall at 1, 5 and 10 in percent, image to text and text to image.

    An image counts as a hit if any of its texts is among its first k, a text if its image is.
    Ties are counted as the *expectation* over a random order of the tied candidates, so a
    constant matrix scores exactly chance. An image without texts is not a query, only a
    candidate.

    Args:
      scores: float [I, T], larger is more similar; used for both directions unless `scores_t2i`.
      image_of_text: int [T], the row of the image that each text belongs to.
      scores_t2i: float [T, I], scores for text to image alone, as `rerank` returns them.

    Returns:
      'tr@k' (image to text), 'ir@k' (text to image) and 'r@k', their mean; nan without queries.

    Raises:
      UserError: shapes do not match, an image index is out of range, or scores are NaN, which
        would compare as a perfect rank.
    """
    scores = _matrix(scores, "scores")
    owner = _owners(image_of_text, scores.shape)
    t2i = scores.T if scores_t2i is None else _matrix(scores_t2i, "scores_t2i")
    if t2i.shape != scores.shape[::-1]:
        raise UserError(
            f"scores_t2i is {t2i.shape}, but [texts, images] is {scores.shape[::-1]}; transpose it"
        )
    images = np.arange(scores.shape[0])
    return recall_of_hits(hits(scores, images, owner), hits(t2i, owner, images))


def rerank(similarity, k: int, score_fn: ScoreFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores the k most similar candidates of each image and text by ITM logit + similarity.

    Pairs outside the top k have -100, as in the original's retrieval evaluation. A pair in the top
    k of both directions is scored once.

    Args:
      similarity: float [I, T], cosine similarities of the ITC projections.
      k: candidates of each query (the paper: 256 on COCO, 128 on Flickr30k); at most all.
      score_fn: given int64 image rows [P] and text rows [P], sorted by image and then by text,
        returns the ITM head's match logits, float [P]. It is called once and makes its own batches.

    Returns:
      float32 [I, T] for image to text and float32 [T, I] for text to image.

    Raises:
      UserError: k below 1, NaN similarities, or not one logit for each pair.
    """
    similarity = _matrix(similarity, "similarity")
    if k < 1:
        raise UserError(f"k is {k}; re-ranking needs at least 1 candidate per query")
    num_images, num_texts = similarity.shape
    by_image = _top_k(similarity, k)
    by_text = _top_k(similarity.T, k)
    flat_i2t = (np.arange(num_images)[:, None] * num_texts + by_image).ravel()
    flat_t2i = (by_text * num_texts + np.arange(num_texts)[:, None]).ravel()
    pairs = np.union1d(flat_i2t, flat_t2i)
    image_index, text_index = pairs // max(num_texts, 1), pairs % max(num_texts, 1)
    logits = np.zeros(0, np.float32)
    if pairs.size:
        logits = np.asarray(score_fn(image_index, text_index), dtype=np.float32)
    if logits.shape != pairs.shape or np.isnan(logits).any():
        raise UserError(
            f"score_fn gave {logits.shape} with {int(np.isnan(logits).sum())} NaN for "
            f"{pairs.size} pairs; expected one match logit for each pair"
        )
    fused = logits + similarity[image_index, text_index]

    i2t = np.full(similarity.size, UNSCORED, np.float32)
    t2i = np.full(similarity.size, UNSCORED, np.float32)
    i2t[flat_i2t] = fused[np.searchsorted(pairs, flat_i2t)]
    t2i[flat_t2i] = fused[np.searchsorted(pairs, flat_t2i)]
    return i2t.reshape(similarity.shape), t2i.reshape(similarity.shape).T


def galleries(image_of_text, num_images: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Divides a test set into consecutive galleries of `size` images with all their texts.

    Images that remain at the end are not used: a smaller gallery is easier.

    Yields:
      int64 image rows [size] and int64 text rows [any] of one gallery.

    Raises:
      UserError: `size` below 1 or above the number of images.
    """
    if not 1 <= size <= num_images:
        raise UserError(f"galleries of {size} images do not fit a test set of {num_images} images")
    owner = np.asarray(image_of_text)
    for start in range(0, num_images - size + 1, size):
        inside = (owner >= start) & (owner < start + size)
        yield np.arange(start, start + size), np.flatnonzero(inside)


def hits(scores, query_label, candidate_label) -> np.ndarray:
    """Returns the probability that a candidate of the query's label is in its top k, float [Q, 3].

    Ties are counted as the *expectation* over a random order of the tied candidates. A query with
    no candidate of its label asks nothing: NaN.

    Args:
      scores: float [Q, C], larger is more alike.
      query_label, candidate_label: int [Q] and [C].
    """
    found = np.full((len(scores), len(KS)), np.nan)
    for rows, block, relevant in _blocks(scores, query_label, candidate_label):
        above, num_relevant, num_others = _tied_with_best(block, relevant)
        found[rows] = np.stack(
            [_hit_chance(k - above, num_relevant, num_others) for k in KS], axis=1
        )
    return found


def _blocks(scores, query_label, candidate_label) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields (rows of queries that have a candidate of their label, scores, which have it)."""
    for start in range(0, len(scores), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(scores)))
        relevant = query_label[rows, None] == candidate_label[None, :]
        asked = relevant.any(axis=1)
        yield rows[asked], scores[rows][asked], relevant[asked]


def _tied_with_best(block, relevant) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns how many candidates are above the best relevant one, and how many tie with it.

    The latter are those that are relevant, itself among them, and the others; all int [Q].
    """
    best = np.where(relevant, block, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    tied = block == best
    return (block > best).sum(axis=1), (tied & relevant).sum(axis=1), (tied & ~relevant).sum(axis=1)


def ranks(scores, query_label, candidate_label) -> np.ndarray:
    """Returns the rank of the first candidate of the query's label, float [Q], 1 for the best.

    Ties are counted as the expectation over a random order of the tied candidates. A query with no
    candidate of its label: NaN. Arguments as of `hits`.
    """
    found = np.full(len(scores), np.nan)
    for rows, block, relevant in _blocks(scores, query_label, candidate_label):
        above, num_relevant, num_others = _tied_with_best(block, relevant)
        found[rows] = above + 1 + num_others / (num_relevant + 1)
    return found


def recall_of_hits(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, float]:
    """Returns recall at 1, 5 and 10 in percent from the `hits` of both directions; skips NaN rows.

    Returns:
      'tr@k' (image to text), 'ir@k' (text to image) and 'r@k', their mean; nan without queries.
    """
    to_text, to_image = (_mean_percent(side) for side in (i2t, t2i))
    both = (to_text + to_image) / 2
    names = (("tr", to_text), ("ir", to_image), ("r", both))
    return {f"{n}@{k}": float(v) for n, values in names for k, v in zip(KS, values, strict=True)}


def _mean_percent(side: np.ndarray) -> np.ndarray:
    asked = side[~np.isnan(side[:, 0])] if len(side) else side
    return 100 * asked.mean(axis=0) if len(asked) else np.full(len(KS), np.nan)


def _hit_chance(places, relevant, others) -> np.ndarray:
    """Returns P(one of `relevant` is in the first `places` of a random order); all int [Q]."""
    miss = np.ones(len(places))
    for drawn in range(max(KS)):
        left = np.maximum(relevant + others - drawn, 1)
        step = np.maximum(others - drawn, 0) / left
        miss = np.where(drawn < places, miss * step, miss)
    return 1 - miss


def _top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the columns of the k largest of each row, int64 [Q, min(k, C)], in any order."""
    k = min(k, scores.shape[1])
    if k == scores.shape[1]:
        return np.tile(np.arange(k), (len(scores), 1))
    chunks = [
        np.argpartition(-scores[start : start + _ROWS], k, axis=1)[:, :k]
        for start in range(0, len(scores), _ROWS)
    ]
    return np.concatenate(chunks) if chunks else np.zeros((0, k), np.int64)


def _matrix(values, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype != np.float64:  # bfloat16 and integers included
        values = values.astype(np.float32)
    if values.ndim != 2:
        raise UserError(f"{name} has shape {values.shape}; expected a matrix")
    if bad := int(np.isnan(values).sum()):
        raise UserError(f"{name} has {bad} NaN of {values.size}; check whether the model diverged")
    return values


def _owners(image_of_text, shape: tuple[int, int]) -> np.ndarray:
    owner = np.asarray(image_of_text, dtype=np.int64)
    if owner.shape != (shape[1],):
        raise UserError(f"image_of_text has shape {owner.shape}, but scores has {shape[1]} texts")
    if owner.size and not 0 <= owner.min() <= owner.max() < shape[0]:
        raise UserError(
            f"image_of_text names images {owner.min()} to {owner.max()}, "
            f"but scores has rows 0 to {shape[0] - 1}"
        )
    return owner
