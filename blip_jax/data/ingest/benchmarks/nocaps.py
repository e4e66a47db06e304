"""NoCaps: ten captions an image of Open Images, with the domain of each image.

    FOLDER/nocaps_val_4500_captions.json
    FOLDER/nocaps_test_image_info.json       images without captions
    FOLDER/val/0013ea2087020901.jpg          (also validation, images), FOLDER/test/…

The field `domain` of a record is in-domain, near-domain or out-domain; of test it is not published.
"""

from __future__ import annotations

from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.coco import official
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

DOMAINS = ("in-domain", "near-domain", "out-domain")


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    (file,) = files
    for record in official(file, settings, settings.split):
        domain = record.fields.get("domain")
        if domain not in DOMAINS and settings.split == "val":
            raise file.wrong(f"has the image {record.key} with the domain {domain!r}")
        yield record


BENCHMARK = Benchmark(
    name="nocaps",
    url="https://nocaps.org/download",
    splits={
        "val": Split((("nocaps_val_4500_captions.json",),), {"images": 4_500, "captions": 45_000}),
        "test": Split((("nocaps_test_image_info.json",),), {"images": 10_600}),
    },
    read=_read,
    image_folders={"val": ("validation", "images"), "test": ("images",)},
)
