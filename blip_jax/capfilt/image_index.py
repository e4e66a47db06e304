"""The index of a dataset's images: `index.parquet`, which `blip-jax prepare` writes.

Legend: N images, in the order of the dataset's rows.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_regular

FILE = "index.parquet"
DUPLICATES = ("keep", "exact", "near")


@dataclasses.dataclass(frozen=True)
class Images:
    """The columns of the index that assembly uses.

    Attributes:
      table: pyarrow's table of N rows.
    """

    table: pa.Table

    def row(self, number: int) -> dict:
        """Returns the values of one image by column."""
        return {name: self.table[name][number].as_py() for name in COLUMNS}

    def strings(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Returns codes, int32 [N], and their values, of "source" or "license"; "" if unknown."""
        column = self.table[name].combine_chunks().fill_null("").dictionary_encode()
        return column.indices.to_numpy(), column.dictionary.to_pylist()

    def weights(self, given: Mapping[str, float]) -> np.ndarray:
        """Returns float64 [N]: the weight of each image's source, 1 where `given` has none.

        Raises:
          UserError: no image has a source that is named.
        """
        codes, sources = self.strings("source")
        unknown = sorted(set(given) - set(sources))
        if unknown:
            known = ", ".join(sources[:10])
            raise UserError(f"no image has source {unknown[0]!r}; sources: {known}")
        return np.array([given.get(source, 1.0) for source in sources])[codes]

    def duplicates(self, kind: str) -> np.ndarray:
        """Returns bool [N]: the images that "exact" or "near" drops; none with "keep"."""
        distance = self.table["distance"].to_numpy()
        if kind == "near":
            return distance >= 0
        return (distance == 0) if kind == "exact" else np.zeros(len(distance), bool)


COLUMNS = ("key", "url", "source", "license", "sha256", "width", "height", "duplicate_of",
           "distance")  # fmt: skip
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in COLUMNS[:5]] + [(name, pa.int64()) for name in COLUMNS[5:]]
)


def read(dataset: str, rows: int) -> Images | None:
    """Returns the index of a dataset, which has `rows` rows; None if it has no index.

    Raises:
      UserError: the index is damaged, or belongs to another dataset.
    """
    path = epath.Path(dataset) / FILE
    if not path.exists():
        return None
    check_regular(path)
    try:
        with path.open("rb") as file:
            table = pa.parquet.read_table(file, columns=list(COLUMNS))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); prepare the dataset again"
        ) from error
    if table.num_rows != rows:
        raise UserError(
            f"{path} has {table.num_rows} rows, but the scores have {rows}; score the dataset "
            "that this index belongs to"
        )
    missing = sorted(set(COLUMNS) - set(table.column_names))
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; prepare the dataset again")
    try:
        table = table.select(COLUMNS).cast(_SCHEMA)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} has other columns ({reason}); prepare the dataset again"
        ) from error
    return Images(table)
