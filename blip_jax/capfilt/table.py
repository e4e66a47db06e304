"""The scored texts of a dataset as columns, compact enough for tens of millions of texts.

Legend: N rows (images), M texts over all rows, F filters, E extra scores.
"""

import dataclasses
import functools
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from blip_jax.capfilt import text_measures
from blip_jax.runtime.files import atomic_path


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
        """Returns the mean cosine of a text over the filters that give one; NaN if none does.

        A filter that scored the text but gave no cosine is a plug-in.
        """
        cosine = self.cosine[text]
        values = cosine[~np.isnan(cosine) | np.isnan(self.p_match[text])]
        return float(values.mean()) if values.size else math.nan


_OF_IMAGES = ("key", "status", "extra_scores")
_OF_TEXTS = ("row", "index", "text", "origin", "model", "method", "p_match", "cosine",
             "log_probability", "tokens")  # fmt: skip


def save_table(table: TextTable, path: epath.Path) -> None:
    """Writes a table to a file, whole or not at all, which `load_table` reads."""
    score_names = {"filters": table.filters, "extra_names": table.extra_names}
    metadata = {"names": json.dumps(score_names)}
    with atomic_path(path) as temporary, epath.Path(temporary).open("wb") as file:
        for columns in (_OF_TEXTS, _OF_IMAGES):
            # Arrow has no lists of no numbers.
            names = [name for name in columns if name != "extra_scores" or table.extra_names]
            values = {name: _as_arrow(getattr(table, name)) for name in names}
            part = pa.table(values, metadata=metadata)
            with pa.ipc.new_stream(file, part.schema) as writer:
                writer.write_table(part)


def load_table(path: epath.Path) -> TextTable:
    """Returns the table that `save_table` wrote."""
    columns: dict = {}
    with path.open("rb") as file:
        for _ in range(2):
            part = pa.ipc.open_stream(file).read_all()
            columns |= {name: _from_arrow(part[name]) for name in part.column_names}
    columns.setdefault("extra_scores", np.empty((len(columns["key"]), 0), np.float32))
    names = json.loads(part.schema.metadata[b"names"])
    return TextTable(**columns, **{name: tuple(values) for name, values in names.items()})


def _as_arrow(values: np.ndarray | pa.Array) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(flat.type, values.shape[1]))
    return pa.array(values)


def _from_arrow(column: pa.ChunkedArray) -> np.ndarray | pa.Array:
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(len(values), values.type.list_size)
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    return values.to_numpy() if is_number else values


def skipped(table: TextTable) -> dict[str, int]:
    """Returns counts of images that could not be used and of unscored texts, by reason."""
    counted = pc.value_counts(table.status).to_pylist()
    reasons = {entry["values"]: entry["counts"] for entry in counted if entry["values"] != "ok"}
    usable = table.where("status", "ok")[table.row]
    empty = int((~table.scored & usable).sum())
    return dict(sorted(reasons.items())) | ({"empty text": empty} if empty else {})
