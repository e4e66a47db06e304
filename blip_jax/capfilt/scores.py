"""The scored dataset: a TFDS dataset with a row an image, and in it every text with its scores.

Row i describes row i of the dataset it was made from; the images stay there. Nothing is dropped:
what to keep is decided at assembly.
"""

import collections
import dataclasses
import os
import re

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from blip_jax.data.sources import open_dataset, to_text
from blip_jax.errors import UserError

NAME = "scores"
ORIGINS = ("web", "synthetic")
_F = tfds.features
FEATURES = _F.FeaturesDict({
    "key": _F.Text(),
    "status": _F.Text(),  # "ok", or why the image could not be used
    "texts": _F.Sequence({
        "text": _F.Text(),
        "origin": _F.Text(),
        "itm_logits": _F.Tensor(shape=(2,), dtype=np.float32),  # no match, match
        "p_match": _F.Scalar(np.float32),  # softmax of the logits; NaN where nothing was scored
        "cosine": _F.Scalar(np.float32),  # of the ITC features
        "log_probability": _F.Scalar(np.float32),  # of a synthetic text; NaN for others
        "tokens": _F.Scalar(np.int32),  # [CLS] and [SEP] counted
    }),
})  # fmt: skip


def shard_path(directory: str, split: str, shard: int, shards: int) -> epath.Path:
    return epath.Path(directory) / f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def write_shard(path: epath.Path, rows: list[dict]) -> None:
    """Writes rows under a temporary name and renames: a shard is whole or it is not there."""
    temporary = path.parent / f"incomplete-{os.getpid()}-{path.name}"
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    for row in rows:
        writer.write(FEATURES.serialize_example(FEATURES.encode_example(row)))
    writer.close()
    temporary.rename(path)


def finish(directory: str, split: str, lengths: list[int], description: str) -> None:
    """Writes what TFDS wants beside the shards, once they are all there.

    Raises:
      UserError: a shard is missing, or there are some of another cut.
    """
    paths = [shard_path(directory, split, i, len(lengths)) for i in range(len(lengths))]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise UserError(f"{directory} lacks {missing[0]}; run capfilt on it again")
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    size = sum(path.stat().length for path in paths)
    info = tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=FEATURES,
        split_infos=[info],
        description=description,
        check_data=False,
    )


def check_shards(directory: str, split: str, shards: int) -> None:
    """Raises a UserError if the folder holds shards of another number."""
    for path in epath.Path(directory).glob(f"{NAME}-{split}.array_record-*"):
        found = re.search(r"-of-(\d+)$", path.name)
        if found and int(found.group(1)) != shards:
            raise UserError(
                f"{directory} holds shards of another run ({path.name}; now {shards} shards): "
                "use a new folder"
            )


@dataclasses.dataclass(frozen=True)
class Columns:
    """The scored texts of a dataset as columns; M texts over all rows.

    Attributes:
      row, index: int32 [M], which row and which of its texts.
      text, origin: lists of M strings.
      p_match, cosine: float32 [M].
      status: a string a row.
      key: a string a row.
    """

    row: np.ndarray
    index: np.ndarray
    text: list[str]
    origin: list[str]
    p_match: np.ndarray
    cosine: np.ndarray
    status: list[str]
    key: list[str]


def set_aside(columns: Columns) -> dict[str, int]:
    """Images that could not be used and texts without a score, by reason; {} if there are none."""
    reasons = collections.Counter(status for status in columns.status if status != "ok")
    usable = [columns.status[row] == "ok" for row in columns.row]
    empty = int((np.isnan(columns.p_match) & usable).sum())
    return dict(reasons) | ({"empty text": empty} if empty else {})


def read(directory: str, split: str) -> Columns:
    """All scored texts of a dataset."""
    source = open_dataset(directory, split)
    row, index, text, origin, p_match, cosine, status, key = ([] for _ in range(8))
    for number in range(len(source)):
        record = source[number]
        status.append(to_text(record["status"]))
        key.append(to_text(record["key"]))
        texts = record["texts"]
        for place, value in enumerate(texts["text"]):
            row.append(number)
            index.append(place)
            text.append(to_text(value))
            origin.append(to_text(texts["origin"][place]))
            p_match.append(texts["p_match"][place])
            cosine.append(texts["cosine"][place])
    return Columns(
        np.array(row, np.int32), np.array(index, np.int32), text, origin,
        np.array(p_match, np.float32), np.array(cosine, np.float32), status, key,
    )  # fmt: skip
