"""The index of a dataset's images: `index.parquet`, which `blip-jax prepare` writes.

Legend: N images, in the order of the dataset's rows.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_regular

FILE = "index.parquet"
DUPLICATES = ("keep", "exact", "near")
MAX_NAMED = 10  # sources in a message


@dataclasses.dataclass(frozen=True)
class Images:
    """Columns of the index, of all images or of some.

    Attributes:
      table: pyarrow's table of N rows.
    """

    table: pa.Table

    def row(self, number: int) -> dict:
        """Returns the values of one image by column."""
        return {name: self.table[name][number].as_py() for name in self.table.column_names}

    def opt_out(self, number: int) -> dict[str, str]:
        """Returns the opt-out fields of one image, as they were given."""
        return _opt_out(self.table["opt_out"][number].as_py())

    def opt_out_names(self) -> list[str]:
        """Returns the names of the opt-out fields that any image has."""
        values = self.table["opt_out"].unique().to_pylist()
        return sorted({name for value in values for name in _opt_out(value)})

    def strings(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Returns codes, int32 [N], and their values, of a column of strings; "" if unknown."""
        column = self.table[name].combine_chunks().fill_null("").dictionary_encode()
        return column.indices.to_numpy(), column.dictionary.to_pylist()

    def weights(self, given: Mapping[str, float]) -> np.ndarray:
        """Returns float64 [N]: the weight of each image's source, 1 where `given` has none."""
        codes, sources = self.strings("source")
        return np.array([given.get(source, 1.0) for source in sources], np.float64)[codes]

    def duplicates(self, kind: str) -> np.ndarray:
        """Returns bool [N]: the images that "exact" or "near" drops; none with "keep"."""
        distance = self.table["distance"].to_numpy()
        if kind == "near":
            return distance >= 0
        return (distance == 0) if kind == "exact" else np.zeros(len(distance), bool)


_STRINGS = ("key", "url", "source", "license", "sha256", "phash", "opt_out")
COLUMNS = (*_STRINGS, "width", "height", "duplicate_of", "distance")
_OPTIONAL = ("phash", "opt_out")  # an index of an earlier version has none
_SCHEMA = pa.schema([(name, pa.string() if name in _STRINGS else pa.int64()) for name in COLUMNS])


def _opt_out(value: str | None) -> dict[str, str]:
    """Returns the opt-out fields of a cell of the index; {} if it has none."""
    try:
        found = json.loads(value or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def read(
    dataset: str,
    rows: int,
    only: np.ndarray | None = None,
    columns: Sequence[str] = COLUMNS,
) -> Images | None:
    """Returns the index of a dataset, which has `rows` rows; None if it has no index.

    Args:
      only: int [N], ascending: the rows that are returned; None: all. Of the file only the row
        groups that hold them are read, one at a time.
      columns: those that are returned.

    Raises:
      UserError: the index is damaged, or belongs to another dataset.
    """
    path = epath.Path(dataset) / FILE
    if not path.exists():
        return None
    check_regular(path)
    try:
        with path.open("rb") as file:
            parquet = pa.parquet.ParquetFile(file)
            if (found := parquet.metadata.num_rows) != rows:
                raise UserError(
                    f"{path} has {found} rows, but the scores have {rows}; score the dataset that "
                    "this index belongs to"
                )
            stored = set(parquet.schema_arrow.names)
            names = [x for x in columns if x in stored or x not in _OPTIONAL]
            table = parquet.read(names) if only is None else _read_rows(parquet, names, only)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); prepare the dataset again"
        ) from error
    for name in set(_OPTIONAL) & set(columns) - set(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    missing = sorted(set(columns) - set(table.column_names))
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; prepare the dataset again")
    try:
        table = table.select(columns).cast(pa.schema([_SCHEMA.field(name) for name in columns]))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} has other columns ({reason}); prepare the dataset again"
        ) from error
    return Images(table)


def _read_rows(
    parquet: pa.parquet.ParquetFile, columns: Sequence[str], rows: np.ndarray
) -> pa.Table:
    """Returns columns of these rows, int [N], ascending."""
    parts, start = [], 0
    for group in range(parquet.num_row_groups):
        stop = start + parquet.metadata.row_group(group).num_rows
        first, last = np.searchsorted(rows, [start, stop])
        if first < last:
            parts.append(parquet.read_row_group(group, columns).take(rows[first:last] - start))
        start = stop
    return pa.concat_tables(parts or [parquet.schema_arrow.empty_table().select(columns)])


def check_sources(dataset: str, named: Collection[str]) -> None:
    """Raises a UserError if no image of a dataset, which has an index, has a source that is named.

    The index is read in batches: it may be larger than memory.
    """
    missing, known = set(named), {}
    with (epath.Path(dataset) / FILE).open("rb") as file:
        for batch in pa.parquet.ParquetFile(file).iter_batches(columns=["source"]):
            if not missing:
                return
            found = [x or "" for x in batch["source"].unique().to_pylist()]
            missing -= set(found)
            known |= dict.fromkeys(found[:MAX_NAMED])
    if missing:
        names = ", ".join(list(known)[:MAX_NAMED])
        raise UserError(f"no image has source {min(missing)!r}; sources: {names}")
