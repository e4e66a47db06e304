"""The JSON lists that BLIP's authors released: an object for each caption, question or image.

They name an image by its path in `image`, or by its address in `url`. A caption is a text, or a
list of all texts of the image. The same lists can be read without a benchmark as `config.source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blip_jax.data.ingest.benchmarks.base import ImageRecord
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.records import as_texts


def captions(file: OwnerFile, key: Callable[[OwnerFile, str], str]) -> Iterator[ImageRecord]:
    """Yields the images of a list with their captions.

    Args:
      key: (file, FOLDER/FILE) -> the owner's id of the image.
    """
    for image, rows in _grouped(file, {"caption": (str, list)}).items():
        texts = [text for row in rows for text in as_texts(row["caption"])]
        name = key(file, image)
        yield ImageRecord(name, image, texts, {"image_id": name})


def questions(file: OwnerFile, key: Callable[[OwnerFile, str], str]) -> Iterator[ImageRecord]:
    """Yields the images of a list with their questions; see `captions`."""
    for image, rows in _grouped(file, {"question": str, "question_id": (int, str)}).items():
        asked = [
            {
                "id": str(row["question_id"]),
                "question": row["question"],
                "answers": as_texts(row.get("answer")),
                "type": "",
            }
            for row in rows
        ]
        name = key(file, image)
        yield ImageRecord(name, image, [], {"image_id": name, "questions": asked})


def _grouped(file: OwnerFile, fields: dict) -> dict[str, list[dict]]:
    """Returns the objects of a list by their image, FOLDER/FILE."""
    groups: dict[str, list[dict]] = {}
    for number, row in enumerate(file.rows(file.load(), "", fields)):
        image = row.get("image") or row.get("url")
        if isinstance(image, list):
            image = image[0] if image else None
        if not isinstance(image, str):
            raise file.wrong(f"has an element {number} in its list without 'image' or 'url'")
        groups.setdefault("/".join(image.split("/")[-2:]), []).append(row)
    return groups
