"""Digests of images, by which the same image is found again in another dataset or split.

N images, R rows.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow.parquet
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.data.datasets import ENCODED_FIELDS, Dataset, open_dataset
from blip_jax.runtime.files import check_regular
from blip_jax.runtime.progress import Progress

MAX_DIGESTS = 1 << 19  # images of a dataset that a checkpoint knows
INDEX = "index.parquet"  # of an import: a line for each row, with the SHA-256 of its image
HEX_DIGITS = 16  # of a SHA-256 that are kept
BATCH_RECORDS = 256  # records read at once
BATCH_ROWS = 1 << 16  # rows of the index read at once


def image_digests(directory: str, split: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Returns the first 8 bytes of the SHA-256 of each image, sorted uint64 [N], each once.

    The bytes are those of the file that was imported, where the dataset knows their hash (the
    field `sha256`, or index.parquet beside it), else those of the record. So an image that the
    import has scaled down is found too; one that was encoded again has another digest. Of a pair
    both images count, as they are in the record; of a clip the video file does.

    Two different images have the same digest with a probability of 5e-20: among 5,000 images
    tested against 100 million, one is found wrongly with a probability of 3e-8.

    Args:
      directory, split: as `open_dataset` takes them.
      rows: int [R], those that count; None: all.

    Raises:
      UserError: there is no such dataset or split, or a record cannot be read.
    """
    dataset = open_dataset(directory, split)
    rows = np.arange(len(dataset)) if rows is None else np.unique(rows)
    found = _of_index(directory, dataset, rows)
    if found is None:
        found = _of_records(dataset, rows)
    return np.unique(found)


def _of_index(directory: str, dataset: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """Returns digests of index.parquet; None if there is none that describes these rows."""
    file = epath.Path(directory) / INDEX
    features = dataset.dataset_info.features
    if "second_image" in features or not file.exists():  # the hash of a pair is of both together
        return None
    check_regular(file)
    parts, start = [], 0
    with file.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as table:
        named = "sha256" in table.schema_arrow.names
        if not named or table.metadata.num_rows != len(dataset):  # a slice of the split
            return None
        for batch in table.iter_batches(BATCH_ROWS, columns=["sha256"]):
            first, last = np.searchsorted(rows, (start, start + batch.num_rows))
            chosen = batch["sha256"].take(rows[first:last] - start).to_pylist()
            parts.append([int(text[:HEX_DIGITS], 16) for text in chosen])
            start += batch.num_rows
    return np.array([digest for part in parts for digest in part], np.uint64)


def _of_records(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Returns digests of records, read one batch after the other: threads would be slower."""
    features = dataset.dataset_info.features
    fields = [name for name in ENCODED_FIELDS if name in features]
    has_hash = "sha256" in features and "second_image" not in features
    found = []
    with Progress("image digests", len(rows), "image") as progress:
        for start in range(0, len(rows), BATCH_RECORDS):
            numbers = rows[start : start + BATCH_RECORDS].tolist()
            try:
                for record in dataset.data_source.__getitems__(numbers):
                    feature = tf_example_pb2.Example.FromString(record).features.feature
                    found += _of_features(feature, fields, has_hash)
            except Exception as error:  # ArrayRecord raises many types for a damaged file
                raise dataset.damaged(numbers[0], error) from error
            progress.update(len(numbers))
    return np.array(found, np.uint64)


def _of_features(feature: Any, fields: list[str], has_hash: bool) -> list[int]:
    known = feature["sha256"].bytes_list.value if has_hash else ()
    if known and known[0]:
        return [int(known[0][:HEX_DIGITS], 16)]
    values = [value for name in fields for value in feature[name].bytes_list.value]
    return [int.from_bytes(hashlib.sha256(value).digest()[:8], "big") for value in values]
