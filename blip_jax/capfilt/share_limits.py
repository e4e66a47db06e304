"""Finds the least P(match) of the best share of each length, in a dataset that is read in parts.

A share of the texts of each number of words is kept, those with the highest P(match). Which these
are depends on all texts; but each part of the dataset only has to hand in its own P(match), sorted
(`Ranked`), and no more than one part is in memory at a time.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

_SPLITS = 256  # of each interval, at each pass over the parts


@dataclasses.dataclass(frozen=True)
class Ranked:
    """P(match) of the texts of a part that a share is of, by number of words.

    Attributes:
      words: int64 [L], different numbers of words, increasing.
      counts: int64 [L], how many texts have them.
      keys: int64 [sum of counts], `_keys` of P(match), increasing within a number of words.
    """

    words: np.ndarray
    counts: np.ndarray
    keys: np.ndarray

    def at_least(self, words: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Returns int64 [W, K]: how many texts of each of `words` have at least each of `keys`.

        Args:
          words: int64 [W], increasing.
          keys: int64 [W, K].
        """
        found = np.zeros(keys.shape, np.int64)
        stops = np.cumsum(self.counts)
        for number, (length, stop) in enumerate(zip(self.words.tolist(), stops.tolist())):
            place = np.searchsorted(words, length)
            own = self.keys[stop - self.counts[number] : stop]
            found[place] = len(own) - np.searchsorted(own, keys[place])
        return found


@dataclasses.dataclass(frozen=True)
class ShareLimit:
    """Which texts of a part are in the best share of their length.

    Attributes:
      words: int64 [L], different numbers of words, increasing.
      p_match: float64 [L], of the last text of the share; texts above it are all in.
      equals: int64 [L], how many of the part's texts with just this P(match) are in: the first.
    """

    words: np.ndarray
    p_match: np.ndarray
    equals: np.ndarray

    def passes(self, words: np.ndarray, p_match: np.ndarray) -> np.ndarray:
        """Returns bool [any]: whether each text of the part is in the share.

        Args:
          words, p_match: [any], in the order of the part; all that were ranked.
        """
        place = np.searchsorted(self.words, words)
        limit = self.p_match[place]
        chosen = p_match > limit
        equal = np.flatnonzero(p_match == limit)
        equal = equal[np.argsort(place[equal], kind="stable")]
        _, starts, counts = np.unique(place[equal], return_index=True, return_counts=True)
        rank = np.arange(len(equal)) - np.repeat(starts, counts)
        chosen[equal[rank < self.equals[place[equal]]]] = True
        return chosen


def rank_texts(words: np.ndarray, p_match: np.ndarray) -> Ranked:
    """Returns the texts of a part, of these numbers of words and P(match) [any], ranked."""
    keys = _keys(p_match)
    lengths, counts = np.unique(words.astype(np.int64), return_counts=True)
    return Ranked(lengths, counts, keys[np.lexsort((keys, words))])


def find_limits(parts: Callable[[], Iterable[Ranked]], share: float) -> list[ShareLimit]:
    """Returns the limit of each part for a share of all texts.

    Of equal P(match) the first texts are in; of a length that any text has at least one is, unless
    the share is 0.

    Args:
      parts: called several times; returns all parts in their order.
      share: 0 to 1.
    """
    words = np.unique(np.concatenate([np.empty(0, np.int64), *(part.words for part in parts())]))
    lowest, highest = (np.full((len(words), 1), key) for key in _keys(np.array([0.0, 1.0])))
    wanted = np.ceil(share * _sum_at_least(parts, words, lowest))  # [W, 1]
    # At least as many as wanted have `low`, which rises, and fewer have `high`, which falls.
    low, high = lowest, highest + 1
    while (high - low > 1).any():
        step = np.maximum((high - low) // _SPLITS, 1)
        keys = np.minimum(low + step * np.arange(1, _SPLITS + 1), high)  # [W, K]
        passed = (_sum_at_least(parts, words, keys) >= wanted).sum(axis=1, keepdims=True)
        edges = np.concatenate([low, keys, high], axis=1)
        low = np.take_along_axis(edges, passed, axis=1)
        high = np.take_along_axis(edges, passed + 1, axis=1)
    none = wanted[:, 0] == 0
    limit = np.where(none, np.inf, _p_match(low[:, 0]))
    left = wanted[:, 0] - _sum_at_least(parts, words, low + 1)[:, 0]
    found = []
    for part in parts():
        above, own = part.at_least(words, np.concatenate([low + 1, low], axis=1)).T
        equals = np.clip(left, 0, own - above).astype(np.int64)
        left = left - equals
        found.append(ShareLimit(words, limit, equals))
    return found


def _sum_at_least(
    parts: Callable[[], Iterable[Ranked]], words: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Returns int64 [W, K]: `Ranked.at_least` summed over the parts."""
    return sum((part.at_least(words, keys) for part in parts()), np.zeros(keys.shape, np.int64))


def _keys(p_match: np.ndarray) -> np.ndarray:
    """Returns int64 [any], in the order of float64 values that are not negative: their bits."""
    return (p_match.astype(np.float64) + 0.0).view(np.int64)  # no negative zeros


def _p_match(keys: np.ndarray) -> np.ndarray:
    return keys.view(np.float64)
