"""NLVR2: statements that are true or false of a pair of photographs.

    FOLDER/data/{train,dev,test1,test2}.json   an object in each line
    FOLDER/images/train/10/train-10171-0-img0.png   in the folder that the field `directory` names
    FOLDER/dev/dev-850-0-img0.png, FOLDER/test1/…   (also images/dev, …)

A record is a pair: the left picture is `image`, the right one `second_image`. `fields` has
{"statements": [{"id", "statement", "label": true, false or null, "group"}, …]}. An identifier is
SPLIT-SET-PAIR-SENTENCE; the group, over which the owner's evaluation counts consistency, is
SPLIT-SET-SENTENCE: the same sentence about other pairs of the set.
"""

from __future__ import annotations

from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

LABELS = {"true": True, "false": False, "": None}


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    (file,) = files
    rows = file.rows(file.load_lines(), "", {"identifier": str, "sentence": str})
    pairs: dict[str, ImageRecord] = {}
    for row in rows:
        parts = row["identifier"].split("-")
        label = str(row.get("label", "")).lower()
        if len(parts) != 4 or parts[0] != settings.split or label not in LABELS:
            raise file.wrong(
                f"has the identifier {row['identifier']!r} with the label {row.get('label')!r}; "
                f"it should be {settings.split}-SET-PAIR-SENTENCE with True or False"
            )
        pair = "-".join(parts[:3])
        if pair not in pairs:
            inner = f"/{row['directory']}" if "directory" in row else ""  # of train alone
            folder = settings.split + inner
            left, right = (f"{folder}/{pair}-img{side}.png" for side in (0, 1))
            fields = {"image_id": pair, "statements": []}
            pairs[pair] = ImageRecord(pair, left, fields=fields, second_image=right)
        pairs[pair].fields["statements"].append(
            {
                "id": row["identifier"],
                "statement": row["sentence"],
                "label": LABELS[label],
                "group": "-".join([*parts[:2], parts[3]]),
            }
        )
    yield from pairs.values()


def _split(name: str, statements: int, pairs: int | None = None) -> Split:
    published = {"statements": statements} | ({"pairs of images": pairs} if pairs else {})
    return Split(((f"{name}.json",),), published)


BENCHMARK = Benchmark(
    name="nlvr2",
    url="https://github.com/lil-lab/nlvr/tree/master/nlvr2",
    splits={
        "train": _split("train", 86_373),
        "dev": _split("dev", 6_982, 4_051),
        "test1": _split("test1", 6_967, 4_041),
        "test2": _split("test2", 6_970, 4_074),
    },
    read=_read,
)
