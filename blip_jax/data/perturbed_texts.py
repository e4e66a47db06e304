"""False texts made of true ones: a word is exchanged for another of its class.

Classes are learned from texts alone, of images that have several. A class has words that say
something of the image, as other texts of it repeat them ("red", not "the"), that stand between the
same words, and that texts of one image do not use for the same thing ("red" and "blue", not "red"
and "scarlet").
W words, C contexts.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from blip_jax.data.text import is_unspaced, split_units

MIN_COUNT = 3  # times that a word must occur to be in a class
MAX_WORDS = 5_000  # the most frequent; a comparison of all words with all takes 1 GB for 10,000
MIN_SIMILARITY = 0.6  # of the contexts of two words in one class
# How often a text holds a word that another text of its image holds: 0 is as often as any text
# does, 1 is always. Words that say nothing of the image are at 0.
MIN_REPETITION = 0.15
# How often two texts of an image hold a word each, over how often by chance. Above it they may say
# the same.
MAX_LIFT = 0.85
BEGIN, END = "<begin>", "<end>"


class WordClasses(Mapping[str, tuple[str, ...]]):
    """For each word those that would make a text with it false, in order of frequency."""

    def __init__(self, others: Mapping[str, Sequence[str]]):
        self._others = {word: tuple(found) for word, found in others.items()}

    def __getitem__(self, word: str) -> tuple[str, ...]:
        return self._others[word]

    def __iter__(self):
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)

    @classmethod
    def learn(cls, texts_by_image: Iterable[Sequence[str]]) -> WordClasses:
        """Returns the classes of the words of cleaned texts.

        Args:
          texts_by_image: the texts of each image. Those with several tell synonyms from others.
        """
        images = [[split_units(text) for text in texts] for texts in texts_by_image]
        counts = collections.Counter(word for texts in images for text in texts for word in text)
        words = [word for word, n in counts.most_common(MAX_WORDS) if n >= MIN_COUNT]
        index = {word: number for number, word in enumerate(words)}
        share, together = _shares(images, index)
        repeated = (np.diag(together) / share - share) / np.maximum(1 - share, 1e-6)
        informative = repeated > MIN_REPETITION
        lift = together / np.outer(share, share)
        other = (_context_similarity(images, index) > MIN_SIMILARITY) & (lift < MAX_LIFT)
        other &= np.outer(informative, informative) & ~np.eye(len(words), dtype=bool)
        found = {
            word: [words[n] for n in np.flatnonzero(row)]
            for word, row in zip(words, other, strict=True)
        }
        return cls({word: others for word, others in found.items() if others})

    def perturb(self, text: str, rng: np.random.Generator) -> str:
        """Returns a text with one word exchanged, or with two words of a class swapped.

        "a red circle and a blue square" becomes "a green circle and a blue square" or "a blue
        circle and a red square". Returns "" if no word of the text is in a class.
        """
        words = split_units(text)
        places = [n for n, word in enumerate(words) if word in self]
        if not places:
            return ""
        place = places[rng.integers(len(places))]
        word = words[place]
        partners = [n for n in places if words[n] in self[word]]
        if partners and rng.random() < 0.5:
            partner = partners[rng.integers(len(partners))]
            words[place], words[partner] = words[partner], word
        else:
            words[place] = self[word][rng.integers(len(self[word]))]
        return _join(words)


def _join(units: Sequence[str]) -> str:
    """Returns the text of units: no blank between two of a script that is written without."""
    text = ""
    for before, unit in zip(("", *units), units, strict=False):
        unspaced = is_unspaced(unit) and (not before or is_unspaced(before))
        text += unit if not text or unspaced else f" {unit}"
    return text


def _context_similarity(images: list[list[list[str]]], index: Mapping[str, int]) -> np.ndarray:
    """Returns float32 [W, W], the mean cosine of the words' left and of their right neighbours."""
    contexts = {word: n for n, word in enumerate((BEGIN, END, *index))}
    similarity = np.zeros((len(index), len(index)), np.float32)
    for side in (0, 2):
        counts = np.zeros((len(index), len(contexts)), np.float32)
        for text in (text for texts in images for text in texts):
            padded = [BEGIN, *text, END]
            for triple in zip(padded, padded[1:], padded[2:], strict=False):
                if triple[1] in index and triple[side] in contexts:
                    counts[index[triple[1]], contexts[triple[side]]] += 1
        # The root keeps the few most frequent neighbours from deciding alone.
        counts = np.sqrt(counts)
        counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
        similarity += counts @ counts.T / 2
    return similarity


def _shares(
    images: list[list[list[str]]], index: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shares of texts that hold a word, and of pairs of texts that hold two.

    The pairs are two texts of an image, ordered, the first with the one word, the second with the
    other.

    Returns: float32 [W], above 0; float32 [W, W].
    """
    together = np.zeros((len(index), len(index)), np.float32)
    alone, pairs = np.zeros(len(index), np.float32), 0
    for texts in images:
        rows = [np.array(sorted({index[w] for w in text if w in index}), int) for text in texts]
        for row, other in itertools.permutations(rows, 2):
            together[np.ix_(row, other)] += 1
            alone[row] += 1
            pairs += 1
    return np.maximum(alone, 0.5) / max(pairs, 1), together / max(pairs, 1)
