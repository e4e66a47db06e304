"""Reads the scored texts of a dataset as a table, with several processes if it is large."""

import array
import collections
import functools
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.capfilt import provenance
from blip_jax.capfilt.table import TextTable
from blip_jax.data.datasets import Dataset, open_dataset
from blip_jax.data.text import has_words
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.progress import Progress
from blip_jax.runtime.worker_pool import BrokenPool, worker_pool

MAX_SCORES = 1000  # filters, and extra scores, of a scored dataset
PART = 100_000  # rows that a process reads at a time, which takes seconds
_CHUNK = 16_384  # rows that are parsed at a time
_RANGES = {"p_match": (0.0, 1.0), "cosine": (-1.01, 1.01)}  # in bfloat16 a cosine exceeds 1
_COLUMNS = ("index", "text", "origin", "model", "method", "p_match", "cosine", "log_probability",
            "tokens", "key", "status", "extra_scores")  # fmt: skip
_NUMBERS = {"p_match": "f", "cosine": "f", "log_probability": "f", "tokens": "i"}
Names = tuple[tuple[str, ...], tuple[str, ...]]  # of the filters and of the extra scores


def read(directory: str, split: str, workers: int = 1) -> TextTable:
    """Returns all scored texts of a dataset.

    Args:
      workers: processes that read, if there are more than PART rows. With more than 1 the calling
        program must be importable (`if __name__ == "__main__"`), as for any spawned process.

    Raises:
      UserError: there is no such dataset, or it is not a scored dataset.
    """
    source = open_dataset(directory, split)
    names = _score_names(source, directory)
    try:
        large = len(source) > PART
        with Progress("read scores", len(source), "row", enabled=large) as progress:
            if workers > 1 and large:
                table = _read_parallel(directory, split, len(source), workers, progress)
            else:
                table = _Builder(*names).build(_examples(source, 0, len(source), progress.update))
    except (ValueError, pa.ArrowException) as error:  # columns of unequal lengths
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{directory} holds rows that are no scores ({error}); run capfilt on the images again"
        ) from error
    _check_scores(table, directory)
    return table


def _score_names(source: Dataset, directory: str) -> Names:
    """Returns the names of the scores; numbers where provenance.json does not name them.

    Raises:
      UserError: it is not a scored dataset.
    """
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
    return tuple(names), tuple(extra_names)


def _read_parallel(
    directory: str, split: str, rows: int, workers: int, progress: Progress
) -> TextTable:
    starts = range(0, rows, PART)
    stops = [min(start + PART, rows) for start in starts]
    read_part, parts = functools.partial(read_rows, directory, split), []
    try:
        with worker_pool(min(workers, len(starts))) as pool:
            for part in pool.map(read_part, starts, stops):
                progress.update(len(part.key))
                parts.append(part)
    except BrokenPool as error:
        raise UserError(
            "a process that read scores was killed, perhaps for lack of memory; rerun where more "
            "is free, or assemble with --config.workers=1"
        ) from error
    return _joined(parts)


def read_rows(directory: str, split: str, start: int, stop: int) -> TextTable:
    """Returns the table of the rows from `start` to `stop`, which it counts from 0.

    Raises:
      UserError: as `read`, but scores out of their range are not noticed.
    """
    source = open_dataset(directory, split)
    names = _score_names(source, directory)
    return _Builder(*names).build(_examples(source, start, stop, lambda count: None))


def _joined(parts: list[TextTable]) -> TextTable:
    """Returns the tables of successive rows as one."""
    first = np.cumsum([0, *(len(part.key) for part in parts)])
    columns = {name: _concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    row = np.concatenate([part.row + start for part, start in zip(parts, first[:-1].tolist())])
    names = {"filters": parts[0].filters, "extra_names": parts[0].extra_names}
    return TextTable(row.astype(np.int32), **columns, **names)


def _concatenate(columns: list) -> np.ndarray | pa.Array:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    if isinstance(columns[0], pa.DictionaryArray):
        return pa.chunked_array(columns).unify_dictionaries().combine_chunks()
    return pa.concat_arrays(columns)


def _check_scores(table: TextTable, directory: str) -> None:
    """Raises a UserError if scores are out of their range, or missing where there is a text."""
    for name, (low, high) in _RANGES.items():
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


def _examples(
    source: Dataset, start: int, stop: int, count: Callable[[int], None]
) -> Iterator[dict]:
    """Yields the features of rows from protobuf: ten times faster than the decoding of TFDS."""
    raw = source.data_source
    for first in range(start, stop, _CHUNK):
        row, last = first, min(first + _CHUNK, stop)
        try:
            for record in raw.__getitems__(range(first, last)):
                example = tf_example_pb2.Example.FromString(record)
                if not example.features.feature:
                    raise ValueError("it is empty")
                yield example.features.feature
                row += 1
        except Exception as error:  # ArrayRecord and protobuf raise many types for a damaged file
            raise source.damaged(row, error) from error
        count(last - first)


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
