"""Reads the scored texts of a dataset as a table, with several processes if it is large."""

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.capfilt import provenance
from blip_jax.capfilt.table import TextTable, load_table, save_table
from blip_jax.capfilt.table_builder import TableBuilder
from blip_jax.data.datasets import Dataset, open_dataset
from blip_jax.data.text import has_words
from blip_jax.runtime.beam import UnitStopped, Work
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import remove_incomplete
from blip_jax.runtime.progress import Progress
from blip_jax.runtime.work_units import Engine, finish_units

MAX_SCORES = 1000  # filters, and extra scores, of a scored dataset
PART = 100_000  # rows of a unit of work, which takes seconds
ONE_PROCESS = Engine()
_CHUNK = 16_384  # rows that are parsed at a time
_RANGES = {"p_match": (0.0, 1.0), "cosine": (-1.01, 1.01)}  # in bfloat16 a cosine exceeds 1
_COLUMNS = ("index", "text", "origin", "model", "method", "p_match", "cosine", "log_probability",
            "tokens", "key", "status", "extra_scores")  # fmt: skip
Names = tuple[tuple[str, ...], tuple[str, ...]]  # of the filters and of the extra scores


def read(directory: str, split: str, engine: Engine = ONE_PROCESS) -> TextTable:
    """Returns all scored texts of a dataset.

    Args:
      engine: where they are read if there are more than PART rows. With several processes the
        calling program must be importable (`if __name__ == "__main__"`), as for any spawned
        process. In its folder, if it has one, what was read is kept until all is, so that the same
        call resumes; it is of one dataset alone.

    Raises:
      UserError: there is no such dataset, or it is not a scored dataset.
      Interrupted: a signal came while several processes or Beam read.
    """
    rows = len(open_dataset(directory, split))
    is_large = rows > PART
    if is_large and (engine.workers > 1 or engine.beam.runner):
        return _read_units(directory, split, rows, engine)
    with Progress("read scores", rows, "row", enabled=is_large) as progress:
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


def _read_units(directory: str, split: str, rows: int, engine: Engine) -> TextTable:
    with contextlib.ExitStack() as stack:
        folder = engine.folder or stack.enter_context(tempfile.TemporaryDirectory())
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        remove_incomplete(folder)
        numbers = range(-(-rows // PART))
        finish_units(
            "read scores",
            numbers,
            functools.partial(_unit_work, directory, split, rows, PART, folder),
            functools.partial(_finished, folder),
            dataclasses.replace(engine, folder=os.path.join(folder, "beam")),
            unit="row",
            size=lambda number: min(PART, rows - number * PART),
        )
        table = _joined([load_table(_unit_path(folder, number)) for number in numbers])
        epath.Path(folder).rmtree()
    return table


def _unit_path(folder: str, number: int) -> epath.Path:
    return epath.Path(folder) / f"{number:06d}.arrow"


def _finished(folder: str) -> set[int]:
    return {int(path.stem) for path in epath.Path(folder).glob("*.arrow") if path.stem.isdecimal()}


def _unit_work(directory: str, split: str, rows: int, part: int, folder: str) -> Work:
    """Returns what a worker does: reads `part` rows and writes their table into `folder`."""

    def work(number: int, should_continue: Callable[[], bool]) -> None:
        def check(count: int) -> None:
            if not should_continue():
                raise UnitStopped

        own = range(number * part, min((number + 1) * part, rows))
        save_table(read_rows(directory, split, own, check), _unit_path(folder, number))

    return work


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
