"""What is measured of a text itself: its length, its repetition, its language."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from blip_jax.data.text import split_units
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed
from blip_jax.runtime.suggestions import hint

# Measures that are numbers: the range of their histogram, whose last bin has higher values too.
RANGES = {"words": (0.0, 60.0), "repetition": (0.0, 1.0), "perplexity": (1.0, 6.0)}


def words(text: str) -> int:
    """Returns the number of words; in scripts without blanks between words, of graphemes."""
    return len(split_units(text))


def repetition(text: str) -> float:
    """Returns the share, 0..1, of the pairs of neighbouring words that are not the first such pair.

    repetition("a dog and a dog") is 0.25: of four pairs the last one repeats the first. Case does
    not count. 0 of fewer than two words.
    """
    units = split_units(text.lower())
    pairs = list(itertools.pairwise(units))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def language_classifier() -> Callable[[str], str]:
    """Returns a function that gives the ISO 639 code of a text, as "en"; "" if it has no letters.

    Of few words the language is often wrong.

    Raises:
      UserError: py3langid is not installed.
    """
    check_installed("language", "py3langid")
    import py3langid

    def identify(text: str) -> str:
        return py3langid.classify(text)[0] if any(map(str.isalpha, text)) else ""

    return identify


def check_languages(codes: Sequence[str]) -> None:
    """Raises a UserError if one of the codes is of no language that `language_classifier` knows.

    Or if py3langid is not installed.
    """
    language_classifier()
    import py3langid

    known = sorted(code for code, _ in py3langid.rank("a text of any language"))
    for code in codes:
        if code not in known:
            raise UserError(f"selection.languages has {code!r}; {hint(code, known)}")


def of_numbers(text: pa.LargeStringArray, measure: Callable[[str], float]) -> np.ndarray:
    """Returns float32 [M]: a measure of M texts; equal ones are measured once."""
    coded = text.dictionary_encode()
    found = [measure(x) for x in coded.dictionary.to_pylist()]
    return np.array(found, np.float32)[coded.indices.to_numpy()]


def of_strings(text: pa.LargeStringArray, measure: Callable[[str], str]) -> pa.DictionaryArray:
    """Returns a dictionary of strings [M]: a measure of M texts; equal ones are measured once."""
    coded = text.dictionary_encode()
    names = pa.array([measure(x) for x in coded.dictionary.to_pylist()], pa.string())
    return names.take(coded.indices).dictionary_encode()
