"""Reads the scored texts of a dataset, or of some of its images, as a table."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.capfilt import provenance
from blip_jax.capfilt.table import TextTable
from blip_jax.capfilt.table_builder import TableBuilder
from blip_jax.data.datasets import Dataset, open_dataset
from blip_jax.data.text import has_words
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.progress import Progress

MAX_SCORES = 1000  # filters, and extra scores, of a scored dataset
MANY_ROWS = 100_000  # whose reading takes seconds
_CHUNK = 16_384  # rows that are parsed at a time
_RANGES = {"p_match": (0.0, 1.0), "cosine": (-1.01, 1.01)}  # in bfloat16 a cosine exceeds 1
Names = tuple[tuple[str, ...], tuple[str, ...]]  # of the filters and of the extra scores


def read(directory: str, split: str) -> TextTable:
    """Returns all scored texts of a dataset.

    Raises:
      UserError: there is no such dataset, or it is not a scored dataset.
    """
    rows = len(open_dataset(directory, split))
    with Progress("read scores", rows, "row", enabled=rows > MANY_ROWS) as progress:
        return read_rows(directory, split, range(rows), progress.update)


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


def read_rows(
    directory: str,
    split: str,
    rows: Sequence[int],
    report: Callable[[int], None] = lambda count: None,
) -> TextTable:
    """Returns the table of the rows with these numbers, which it counts from 0.

    Args:
      rows: ascending.
      report: called after each few thousand rows with their number.

    Raises:
      UserError: as `read`.
    """
    source = open_dataset(directory, split)
    names = _score_names(source, directory)
    try:
        table = TableBuilder(*names).build(_examples(source, rows, report))
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
    source: Dataset, rows: Sequence[int], report: Callable[[int], None]
) -> Iterator[dict]:
    """Yields the features of rows from protobuf: ten times faster than the decoding of TFDS."""
    raw = source.data_source
    for first in range(0, len(rows), _CHUNK):
        chunk, done = rows[first : first + _CHUNK], 0
        try:
            for record in raw.__getitems__(chunk):
                example = tf_example_pb2.Example.FromString(record)
                if not example.features.feature:
                    raise ValueError("it is empty")
                yield example.features.feature
                done += 1
        except Exception as error:  # ArrayRecord and protobuf raise many types for a damaged file
            raise source.damaged(chunk[done], error) from error
        report(len(chunk))
