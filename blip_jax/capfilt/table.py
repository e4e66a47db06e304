"""The scored texts of a dataset as columns, compact enough for tens of millions of texts.

Legend: N rows (images), M texts over all rows, F filters, E extra scores.
"""

import dataclasses
import functools
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from blip_jax.capfilt import text_measures
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_path
from blip_jax.runtime.suggestions import hint

REDUCTIONS = ("mean", "min")  # of the scores of several filters


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

    def take_rows(self, rows: np.ndarray) -> "TextTable":
        """Returns the table of some images, int [n], increasing; they are its rows 0 to n - 1."""
        place = np.searchsorted(rows, self.row)
        texts = np.flatnonzero(np.append(rows, -1)[place] == self.row)
        columns = {name: _take(getattr(self, name), texts) for name in _OF_TEXTS}
        columns |= {name: _take(getattr(self, name), rows) for name in _OF_IMAGES}
        columns["row"] = place[texts].astype(np.int32)
        return dataclasses.replace(self, **columns)


def _take(values: np.ndarray | pa.Array | None, chosen: np.ndarray) -> np.ndarray | pa.Array | None:
    if values is None:
        return None
    return values[chosen] if isinstance(values, np.ndarray) else values.take(pa.array(chosen))


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


def column(table: TextTable, name: str) -> np.ndarray:
    """Returns float [M]: a filter's score, the extra score of the text's image, or a measure.

    Measures are those of `text_measures.RANGES`.

    Raises:
      UserError: there is no such column.
    """
    if name in table.filters:
        return table.p_match[:, table.filters.index(name)]
    if name in table.extra_names:
        return table.extra_scores[table.row, table.extra_names.index(name)]
    if name in text_measures.RANGES:
        return getattr(table, name)
    known = (*table.filters, *table.extra_names, *text_measures.RANGES)
    raise UserError(f"there is no filter, extra score or measure {name!r}; {hint(name, known)}")


def reduce_filters(table: TextTable, score: str, reduction: str) -> np.ndarray:
    """Returns float64 [M]: "p_match" or "cosine" of one filter or over all; NaN if unscored.

    Plug-ins give no cosine: over all filters, the cosine is that of the models.

    Args:
      reduction: the name of one filter, or one of REDUCTIONS.

    Raises:
      UserError: there is no such filter.
    """
    values = getattr(table, score).astype(np.float64)
    if reduction in table.filters:
        return values[:, table.filters.index(reduction)]
    if reduction not in REDUCTIONS:
        known = ", ".join((*REDUCTIONS, *table.filters))
        raise UserError(f"there is no filter {reduction!r}; expected one of {known}")
    given = ~np.isnan(values) | np.isnan(table.p_match)  # a plug-in scores without a cosine
    if reduction == "min":
        found = np.where(given, values, np.inf).min(axis=1)
        return np.where(given.any(axis=1), found, np.nan)
    with np.errstate(invalid="ignore"):
        return np.where(given, values, 0).sum(axis=1) / given.sum(axis=1)
