"""COCO captions.

    FOLDER/dataset_coco.json                  Karpathy's splits: train (with restval), val, test
    FOLDER/coco_karpathy_{train,val,test}.json  or the same as BLIP's lists
    FOLDER/annotations/captions_{train,val}{2014,2017}.json, image_info_test{2014,2017}.json
                                              COCO's own: splits train2014, val2017, …
    FOLDER/train2014/COCO_train2014_000000000009.jpg, FOLDER/train2017/000000000009.jpg, …

The test sets of COCO have no captions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import blip_lists, coco_images, karpathy
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.json_documents import join_captions
from blip_jax.data.ingest.records import as_texts

KARPATHY = "dataset_coco.json"
UNUSED = ("image_id", "captions", "height", "width")  # fields of an image that are not kept as such


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    (file,) = files
    if file.name == KARPATHY:
        splits = ("train", "restval") if settings.split == "train" else (settings.split,)
        return karpathy.records(file, "coco", splits, _describe)
    if file.name.startswith("coco_karpathy"):
        return blip_lists.captions(file, coco_images.image_id)
    return official(file, settings, settings.split)


def _describe(row: dict) -> tuple[str, str]:
    key = str(row["cocoid"]) if "cocoid" in row else row["filename"]
    return key, f"{row.get('filepath', 'images')}/{row['filename']}"


def official(file: OwnerFile, settings: IngestConfig, folder: str) -> Iterator[ImageRecord]:
    """Yields the images of a file in COCO's format, with the captions if it has any.

    Args:
      folder: the owner's folder of the images.
    """
    document = file.load()
    images = file.rows(document, "images", {"id": int, "file_name": str})
    annotations = document.get("annotations", [])
    if "captions" in file.name:
        known = {image["id"] for image in images}
        fields = {"image_id": int, "caption": str}
        annotations = file.rows(document, "annotations", fields)
        if not all(annotation["image_id"] in known for annotation in annotations):
            raise file.wrong("has captions of images that are not in its list 'images'")
    settings = dataclasses.replace(settings, allow_no_text=True)  # the test sets have none
    for row in join_captions(images, annotations, file.path, settings):
        key = str(row["image_id"])
        rest = {name: value for name, value in row.items() if name not in UNUSED}
        fields = {"image_id": key} | rest
        yield ImageRecord(key, f"{folder}/{row['file_name']}", as_texts(row["captions"]), fields)


def _official_split(name: str, images: int, captions: int) -> Split:
    return Split(((f"captions_{name}.json",),), {"images": images, "captions": captions})


def _karpathy_split(name: str, images: int, captions: int) -> Split:
    files = ((KARPATHY,), (f"coco_karpathy_{name}.json",))
    return Split(files, {"images": images, "captions": captions})


BENCHMARK = Benchmark(
    name="coco",
    url=f"{coco_images.URL} or {karpathy.URL}",
    splits={
        "train": _karpathy_split("train", 113_287, 566_747),
        "val": _karpathy_split("val", 5_000, 25_010),
        "test": _karpathy_split("test", 5_000, 25_010),
        "train2014": _official_split("train2014", 82_783, 414_113),
        "val2014": _official_split("val2014", 40_504, 202_654),
        "train2017": _official_split("train2017", 118_287, 591_753),
        "val2017": _official_split("val2017", 5_000, 25_014),
        "test2014": Split((("image_info_test2014.json",),), {"images": 40_775}),
        "test2017": Split((("image_info_test2017.json",),), {"images": 40_670}),
    },
    read=_read,
)
