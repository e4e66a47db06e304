"""Visual Genome 1.2: descriptions of regions as captions, or questions with one answer each.

    FOLDER/image_data.json
    FOLDER/region_descriptions.json          of the benchmark visual_genome
    FOLDER/question_answers.json             of the benchmark visual_genome_vqa
    FOLDER/vg_qa.json                        or the questions as BLIP's list
    FOLDER/VG_100K/2.jpg, FOLDER/VG_100K_2/1.jpg, or all in FOLDER/image

The only split is train. An image without a question is no record of visual_genome_vqa. Of the
regions, `fields` has the ids and the boxes (x, y, width, height in pixels), in the texts' order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import blip_lists
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

URL = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
IMAGES = "image_data.json"
MERGED = ("VG_100K", "VG_100K_2", "image", "images")  # folders that may have all images


def _read_regions(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    images = _images(files[1])
    for image_id, rows in _listed(files[0], "regions", {"phrase": str}):
        rows = [row for row in rows if row["phrase"].strip()]
        fields = {
            "image_id": str(image_id),
            "region_ids": [row.get("region_id") for row in rows],
            "boxes": [[row.get(name) for name in ("x", "y", "width", "height")] for row in rows],
        }
        texts = [row["phrase"].strip() for row in rows]
        yield ImageRecord(str(image_id), _image(files, images, image_id), texts, fields)


def _read_questions(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    if len(files) == 1:
        yield from blip_lists.questions(files[0], lambda file, image: _key(image))
        return
    images = _images(files[1])
    fields = {"question": str, "answer": str, "qa_id": int}
    for image_id, rows in _listed(files[0], "qas", fields):
        asked = [
            {"id": str(row["qa_id"]), "question": row["question"], "answers": [row["answer"]],
             "type": ""}
            for row in rows
        ]  # fmt: skip
        if asked:
            values = {"image_id": str(image_id), "questions": asked}
            image = _image(files, images, image_id)
            yield ImageRecord(str(image_id), image, fields=values)


def _listed(file: OwnerFile, name: str, fields: dict) -> Iterator[tuple[int, list[dict]]]:
    """Yields (image id, what the file lists of the image); the id is `id` in version 1.2."""
    for number, row in enumerate(file.rows(file.load(), "", {name: list})):
        image_id = row.get("id", row.get("image_id"))
        if not isinstance(image_id, int):
            raise file.wrong(f"has an element {number} in its list without 'id' or 'image_id'")
        yield image_id, file.rows(row, name, fields) if row[name] else []


def _images(file: OwnerFile) -> dict[int, str]:
    """Returns FOLDER/FILE of each image; the folder is in its address."""
    rows = file.rows(file.load(), "", {"image_id": int, "url": str})
    return {row["image_id"]: "/".join(row["url"].split("/")[-2:]) for row in rows}


def _image(files: list[OwnerFile], images: dict[int, str], image_id: int) -> str:
    if image_id not in images:
        raise files[1].wrong(f"lacks the image {image_id} of {files[0].path}")
    return images[image_id]


def _key(image: str) -> str:
    return os.path.splitext(os.path.basename(image))[0]


FOLDERS = {name: tuple(other for other in MERGED if other != name) for name in MERGED[:3]}
CAPTIONS = Benchmark(
    name="visual_genome",
    url=URL,
    splits={
        "train": Split(
            (("region_descriptions.json", IMAGES),),
            {"images": 108_077, "captions": 5_408_689},
        )
    },
    read=_read_regions,
    image_folders=FOLDERS,
)
VQA = Benchmark(
    name="visual_genome_vqa",
    url=URL,
    splits={
        "train": Split(
            (("question_answers.json", IMAGES), ("vg_qa.json",)), {"questions": 1_445_322}
        )
    },
    read=_read_questions,
    image_folders=FOLDERS,
)
