"""The scored texts of a dataset as columns, compact enough for tens of millions of texts.

Legend: N rows (images), M texts over all rows, F filters, E extra scores.
"""

import dataclasses
import functools
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blip_jax.capfilt import text_measures


@dataclasses.dataclass(frozen=True, repr=False)
class TextTable:
    """Texts in the order of rows and, within a row, in the stored order.

    Attributes:
      row, index: int32 [M], number of the row and of the text within it.
      text: pyarrow's large_string [M].
      origin, model, method: pyarrow's dictionary of strings [M]; see `where`.
      p_match, cosine: float32 [M, F]; NaN where not scored; plug-ins give no cosine.
      log_probability: float32 [M]; NaN for web texts.
      tokens: int32 [M].
      key: large_string [N].
      status: dictionary of strings [N]; "ok", or why the image could not be used.
      filters: names of the F filters.
      extra_scores: float32 [N, E]; NaN of images that could not be used.
      extra_names: names of the E extra scores.
    """

    row: np.ndarray
    index: np.ndarray
    text: pa.LargeStringArray
    origin: pa.DictionaryArray
    model: pa.DictionaryArray
    method: pa.DictionaryArray
    p_match: np.ndarray
    cosine: np.ndarray
    log_probability: np.ndarray
    tokens: np.ndarray
    key: pa.LargeStringArray
    status: pa.DictionaryArray
    filters: tuple[str, ...]
    extra_scores: np.ndarray | None = None
    extra_names: tuple[str, ...] = ()

    def where(self, column: str, value: str) -> np.ndarray:
        """Returns bool [M], or [N] for "status": where the column has this value."""
        coded = getattr(self, column)
        code = coded.dictionary.index(value).as_py()  # -1 if no row has the value
        return coded.indices.to_numpy() == code

    @property
    def scored(self) -> np.ndarray:
        """Returns bool [M]: whether all filters scored the text."""
        return ~np.isnan(self.p_match).any(axis=1)

    @functools.cached_property
    def gives_cosine(self) -> np.ndarray:
        """Returns bool [F]: whether the filter gives cosines; plug-ins do not."""
        return ~np.isnan(self.cosine).all(axis=0)

    @functools.cached_property
    def words(self) -> np.ndarray:
        """Returns float32 [M]: `text_measures.words`."""
        return text_measures.of_numbers(self.text, text_measures.words)

    @functools.cached_property
    def repetition(self) -> np.ndarray:
        """Returns float32 [M]: `text_measures.repetition`."""
        return text_measures.of_numbers(self.text, text_measures.repetition)

    @functools.cached_property
    def perplexity(self) -> np.ndarray:
        """Returns float32 [M]: the captioner's of its text; NaN of texts that no model here wrote.

        It is exp of the mean negative log-probability of the text's tokens and its end.
        """
        predicted = np.where(self.tokens > 1, self.tokens - 1, np.nan)  # all but [CLS]
        with np.errstate(over="ignore"):
            return np.exp(-self.log_probability / predicted).astype(np.float32)

    @functools.cached_property
    def language(self) -> pa.DictionaryArray:
        """Returns a dictionary of strings [M]: `text_measures.language_classifier`.

        Raises:
          UserError: py3langid is not installed.
        """
        return text_measures.of_strings(self.text, text_measures.language_classifier())

    def mean_cosine(self, text: int) -> float:
        """Returns the mean cosine of a text over the filters that give one; NaN if none does."""
        values = self.cosine[text][self.gives_cosine]
        return float(values.mean()) if values.size else math.nan


def skipped(table: TextTable) -> dict[str, int]:
    """Returns counts of images that could not be used and of unscored texts, by reason."""
    counted = pc.value_counts(table.status).to_pylist()
    reasons = {entry["values"]: entry["counts"] for entry in counted if entry["values"] != "ok"}
    usable = table.where("status", "ok")[table.row]
    empty = int((~table.scored & usable).sum())
    return dict(sorted(reasons.items())) | ({"empty text": empty} if empty else {})
