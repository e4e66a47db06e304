"""The scored dataset: a TFDS dataset with one row for each image, which has all texts and scores.

Row i describes row i of the dataset that was scored; the images stay there. All texts are stored:
the selection happens at assembly. provenance.json names the models and the images (provenance.py).
`read` returns the texts as columns (table.py).
"""

import concurrent.futures

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from blip_jax.capfilt.score_reader import read  # noqa: F401
from blip_jax.capfilt.table import TextTable, skipped  # noqa: F401
from blip_jax.data.serialization import serializer
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_path, remove_incomplete

NAME = "scores"
FORMAT = 1  # of the rows: shards of another one cannot be continued
WORK = "shards"  # folder of claims (work_queue.py)
READERS = 32  # threads that look at many small files at once
ORIGINS = ("web", "synthetic")


def features(filters: int = 1, extra_scores: int = 0) -> tfds.features.FeaturesDict:
    """Returns the features of a row with scores of `filters` filters and further scores."""
    kinds = tfds.features
    each = kinds.Tensor(shape=(filters,), dtype=np.float32)
    # One value per extra score, in the order of the provenance; NaN of an undecodable image.
    extra = kinds.Tensor(shape=(extra_scores,), dtype=np.float32)
    return kinds.FeaturesDict({
        "key": kinds.Text(),
        "status": kinds.Text(),  # "ok", or why the image could not be used
        "texts": kinds.Sequence({
            "text": kinds.Text(),
            "origin": kinds.Text(),  # one of ORIGINS
            "model": kinds.Text(),  # name of the captioner; "" for web
            # Decoding method: "nucleus", "beam", …; "" for web and for plug-ins.
            "method": kinds.Text(),
            # One value per filter, in the order of the provenance; NaN if not scored. Plug-ins give
            # no logits and no cosine.
            "itm_logits": kinds.Tensor(shape=(filters, 2), dtype=np.float32),  # no match, match
            "p_match": each,  # softmax of the logits; a plug-in's score
            "cosine": each,  # cosine of the ITC features
            # Summed over tokens; NaN for web and for plug-ins.
            "log_probability": kinds.Scalar(np.float32),
            "tokens": kinds.Scalar(np.int32),  # including [CLS] and [SEP]
        }),
        **({"extra_scores": extra} if extra_scores else {}),
    })  # fmt: skip


def shard_path(directory: str, split: str, shard: int, shards: int) -> epath.Path:
    return epath.Path(directory) / f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def write_shard(
    path: epath.Path, rows: list[dict], filters: int = 1, extra_scores: int = 0
) -> None:
    """Writes a shard, whole or not at all."""
    serialize = serializer(features(filters, extra_scores))
    try:
        with atomic_path(path) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")
            for row in rows:
                writer.write(serialize(row))
            writer.close()
    except FileNotFoundError:  # another host wrote it, finished, and cleaned up
        if not path.exists():
            raise


def finish(
    directory: str,
    split: str,
    lengths: list[int],
    description: str,
    filters: int = 1,
    extra_scores: int = 0,
) -> None:
    """Writes the metadata that TFDS needs, when all shards are written.

    Args:
      lengths: rows of each shard.
      filters, extra_scores: their numbers.

    Raises:
      UserError: a shard is missing or damaged.
    """
    num_bytes = check_shards(directory, split, lengths)
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    for folder in (directory, epath.Path(directory) / WORK):
        remove_incomplete(folder)
    info = tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features(filters, extra_scores),
        split_infos=[info],
        description=description,
        check_data=False,
    )


def check_shards(directory: str, split: str, lengths: list[int]) -> int:
    """Returns the bytes of all shards.

    Raises:
      UserError: a shard is missing or damaged.
    """
    paths = [shard_path(directory, split, i, len(lengths)) for i in range(len(lengths))]
    with concurrent.futures.ThreadPoolExecutor(READERS) as threads:  # storage may be far away
        sizes = list(threads.map(_size, paths))
        if None in sizes:
            name = paths[sizes.index(None)].name
            raise UserError(f"{directory} lacks {name}; run capfilt on it again")
        list(threads.map(_check_rows, paths, lengths))
    return sum(sizes)


def _size(path: epath.Path) -> int | None:
    """Returns the bytes of a file; None if there is none."""
    try:
        return path.stat().length
    except FileNotFoundError:
        return None


def has_shards(directory: str) -> bool:
    """Returns whether a folder holds shards of scores."""
    return any(epath.Path(directory).glob(f"{NAME}-*.array_record-*"))


def _check_rows(path: epath.Path, rows: int) -> None:
    """Raises a UserError if a local shard is damaged or does not hold so many rows."""
    if "://" in str(path):  # objects are whole
        return
    try:
        reader = ArrayRecordReader(str(path))
        found = str(reader.num_records())
        reader.close()
    except Exception as error:  # ArrayRecord raises many types
        found = f"not readable: {error}".splitlines()[0]
    if found != str(rows):
        raise UserError(
            f"{path} is damaged (rows: {found}, expected {rows}); delete it and rerun the same "
            "command"
        )
