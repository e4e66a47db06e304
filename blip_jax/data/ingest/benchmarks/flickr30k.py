"""Flickr30k: five captions an image.

FOLDER/dataset_flickr30k.json            Karpathy's splits: train, val, test
FOLDER/flickr30k_{train,val,test}.json   or the same as BLIP's lists
FOLDER/flickr30k-images/1000092795.jpg   (also flickr30k_images, images)
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import blip_lists, karpathy
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

KARPATHY = "dataset_flickr30k.json"
IMAGES = "flickr30k-images"


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    (file,) = files
    if file.name == KARPATHY:
        return karpathy.records(file, "flickr30k", (settings.split,), _describe)
    return blip_lists.captions(file, lambda file, image: _key(image))


def _describe(row: dict) -> tuple[str, str]:
    return _key(row["filename"]), f"{IMAGES}/{row['filename']}"


def _key(image: str) -> str:
    return os.path.splitext(os.path.basename(image))[0]


def _split(name: str, images: int) -> Split:
    files = ((KARPATHY,), (f"flickr30k_{name}.json",))
    return Split(files, {"images": images, "captions": 5 * images})


BENCHMARK = Benchmark(
    name="flickr30k",
    url=f"{karpathy.URL} (images: https://shannon.cs.illinois.edu/DenotationGraph)",
    splits={
        "train": _split("train", 29_000),
        "val": _split("val", 1_014),
        "test": _split("test", 1_000),
    },
    read=_read,
    image_folders={IMAGES: ("flickr30k_images", "images", "Images")},
)
