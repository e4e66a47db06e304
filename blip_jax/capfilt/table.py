"""The scored texts of a dataset as columns, compact enough for tens of millions of texts.

Legend: N rows (images), M texts over all rows, F filters, E extra scores.
"""

import array
import collections
import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.capfilt import provenance, text_measures
from blip_jax.data.datasets import Dataset, open_dataset
from blip_jax.data.text import has_words
from blip_jax.runtime.errors import UserError

MAX_SCORES = 1000  # filters, and extra scores, of a scored dataset
_CHUNK = 16_384  # rows that are parsed at a time
RANGES = {"p_match": (0.0, 1.0), "cosine": (-1.01, 1.01)}  # in bfloat16 a cosine exceeds 1
_NUMBERS = {"p_match": "f", "cosine": "f", "log_probability": "f", "tokens": "i"}


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


def read(directory: str, split: str) -> TextTable:
    """Returns all scored texts of a dataset.

    Raises:
      UserError: there is no such dataset, or it is not a scored dataset.
    """
    source = open_dataset(directory, split)
    kinds = source.dataset_info.features
    try:
        (filters,) = kinds["status"] and kinds["texts"]["p_match"].shape
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{directory} holds no scores of this version of capfilt; run capfilt on the images"
        ) from None
    extra = kinds["extra_scores"].shape[0] if "extra_scores" in kinds else 0
    if not (1 <= filters <= MAX_SCORES and extra <= MAX_SCORES):
        raise UserError(
            f"{directory} claims scores of {filters} filters and {extra} extra scores; its files "
            "are damaged"
        )
    known = provenance.read(directory)
    names = [entry["name"] for entry in known.get("filters", [])]
    if len(names) != filters:
        names = ["filter"] if filters == 1 else [f"filter-{i}" for i in range(filters)]
    extra_names = [entry["name"] for entry in known.get("extra_scores", [])]
    if len(extra_names) != extra:
        extra_names = [f"extra-{i}" for i in range(extra)]
    try:
        table = _Builder(tuple(names), tuple(extra_names)).build(_examples(source))
    except (ValueError, pa.ArrowException) as error:  # columns of unequal lengths
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{directory} holds rows that are no scores ({error}); run capfilt on the images again"
        ) from error
    _check_scores(table, directory)
    return table


def _check_scores(table: TextTable, directory: str) -> None:
    """Raises a UserError if scores are out of their range, or missing where there is a text."""
    for name, (low, high) in RANGES.items():
        values = getattr(table, name)
        bad = (values < low) | (values > high)  # False for NaN
        if bad.any():
            raise UserError(
                f"{directory} has {int(bad.sum())} values of {name} outside {low:g} to {high:g}, "
                f"as {values[bad][0]:g}; run capfilt on the images again"
            )
    usable = table.where("status", "ok")[table.row]
    missing = np.isnan(table.p_match) & usable[:, None]
    rows = np.flatnonzero(missing.any(axis=1))
    texts = [table.text[i].as_py() for i in rows.tolist()]
    # A text without a word has no score; which those are depends on the filter's clean-up.
    rows = rows[[has_words(text) for text in texts]]
    for number, name in enumerate(table.filters):
        if count := int(missing[rows, number].sum()):
            raise UserError(
                f"{directory}: filter {name!r} gave {count} texts no score (NaN); check whether "
                "the model diverged, and run capfilt with another filter"
            )


def _examples(source: Dataset) -> Iterator[dict]:
    """Yields the features of each row from protobuf: ten times faster than the decoding of TFDS."""
    raw = source.data_source
    for start in range(0, len(raw), _CHUNK):
        row = start
        try:
            for record in raw.__getitems__(range(start, min(start + _CHUNK, len(raw)))):
                example = tf_example_pb2.Example.FromString(record)
                if not example.features.feature:
                    raise ValueError("it is empty")
                yield example.features.feature
                row += 1
        except Exception as error:  # ArrayRecord and protobuf raise many types for a damaged file
            raise source.damaged(row, error) from error


class _Builder:
    """Collects columns row by row in little more memory than the result takes."""

    def __init__(self, filters: tuple[str, ...], extra_names: tuple[str, ...]):
        self.filters, self.extra_names = filters, extra_names
        self.extra_scores = array.array("f")
        self.numbers = {name: array.array(code) for name, code in _NUMBERS.items()}
        self.coded = {name: _Codes() for name in ("origin", "model", "method", "status")}
        self.strings = {name: _Strings() for name in ("text", "key")}
        self.count = array.array("i")  # texts of each row

    def build(self, examples: Iterator[dict]) -> TextTable:
        for example in examples:
            self._add(example)
        count = np.frombuffer(self.count, np.int32)
        row = np.repeat(np.arange(len(count), dtype=np.int32), count)
        index = np.arange(len(row), dtype=np.int32) - np.repeat(
            (np.cumsum(count, dtype=np.int64) - count).astype(np.int32), count
        )
        sizes = {"key": len(count), "status": len(count)}
        columns = self.numbers | self.coded | self.strings | {"extra_scores": self.extra_scores}
        sizes["extra_scores"] = len(count) * len(self.extra_names)
        for name, values in columns.items():
            wide = len(self.filters) if name in ("p_match", "cosine") else 1
            size = sizes.get(name, len(row) * wide)
            if len(values) != size:
                raise ValueError(f"{name} has {len(values)} values, expected {size}")
        numbers = {
            name: np.frombuffer(values, np.float32 if values.typecode == "f" else np.int32)
            for name, values in self.numbers.items()
        }
        for name in ("p_match", "cosine"):
            numbers[name] = numbers[name].reshape(len(row), len(self.filters))
        strings = {name: values.array() for name, values in self.strings.items()}
        coded = {name: values.array() for name, values in self.coded.items()}
        extra = np.frombuffer(self.extra_scores, np.float32).reshape(len(count), -1)
        names = {"filters": self.filters, "extra_names": self.extra_names}
        return TextTable(row, index, **numbers, **strings, **coded, **names, extra_scores=extra)

    def _add(self, example: dict) -> None:
        texts = example["texts/text"].bytes_list.value
        self.count.append(len(texts))
        self.strings["key"].extend(example["key"].bytes_list.value)
        self.coded["status"].extend(example["status"].bytes_list.value)
        self.strings["text"].extend(texts)
        for name in ("origin", "model", "method"):
            self.coded[name].extend(example[f"texts/{name}"].bytes_list.value)
        for name, values in self.numbers.items():
            feature = example[f"texts/{name}"]
            found = feature.float_list if values.typecode == "f" else feature.int64_list
            values.extend(found.value)
        if self.extra_names:
            self.extra_scores.extend(example["extra_scores"].float_list.value)


class _Codes:
    """A column with few different values, stored as codes."""

    def __init__(self):
        self.known: dict[bytes, int] = collections.defaultdict(lambda: len(self.known))
        self.codes = array.array("i")

    def __len__(self) -> int:
        return len(self.codes)

    def extend(self, values) -> None:
        self.codes.extend([self.known[value] for value in values])

    def array(self) -> pa.DictionaryArray:
        names = pa.array([name.decode("utf-8", "replace") for name in self.known], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(np.frombuffer(self.codes, np.int32)), names)


class _Strings:
    """A column of strings, stored by Arrow in chunks."""

    def __init__(self):
        self.chunks: list[pa.Array] = []
        self.last: list[bytes] = []

    def __len__(self) -> int:
        return sum(map(len, self.chunks)) + len(self.last)

    def extend(self, values) -> None:
        self.last.extend(values)
        if len(self.last) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        self.chunks.append(pa.array(self.last, pa.large_string()))
        self.last = []

    def array(self) -> pa.LargeStringArray:
        self._pack()
        return pa.concat_arrays(self.chunks)
