"""JSON objects that contain the records: COCO's captions, Karpathy's splits, {"data": [...]}.

Their records are written as JSON lines, once, and read as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.image_files import open_buffered
from blip_jax.data.ingest.records import IMAGES, FieldMapping
from blip_jax.data.ingest.text import UTF8_BOM, check_utf8, parse_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write

LINES = (".jsonl", ".ndjson")  # files whose every line is a value
MAX_LINE = 1 << 24  # a longer first line is no record


def write(path: str, file_list: epath.Path, settings: IngestConfig) -> bool:
    """Writes the records of a file as JSON lines, unless it is a list or has lines already.

    Returns:
      Whether they are in `file_list` now.

    Raises:
      UserError: the file is an object with several lists, or of COCO's without captions.
    """
    if file_list.exists():
        return True
    document = _document(path)
    found = None if document is None else _records(document, path, settings)
    if found is None:
        return False
    with atomic_write(file_list) as file:
        file.writelines(json.dumps(record) + "\n" for record in found)
    return True


def _document(path: str) -> dict | None:
    """Returns the object that is the whole of a file; None if the file is anything else."""
    with open_buffered(path) as file:
        head = file.read(4)
        check_utf8(head, path)
        file.seek(len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0)
        first = file.readline(MAX_LINE)
        while first and not first.strip():
            first = file.readline(MAX_LINE)
        if not first.lstrip().startswith(b"{"):
            return None
        if len(first) < MAX_LINE and file.peek(1) and _is_json(first):
            return None  # JSON lines
        if path.lower().endswith(LINES) and not _is_json(first):
            return None
        try:
            value = parse_json(first + file.read())
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_record(document: dict, settings: IngestConfig) -> bool:
    """Returns whether the object is itself a record, with an image and a text."""
    columns = FieldMapping(settings)
    _, picture = columns.find_picture(document)
    named = bool(picture) and not isinstance(document[picture], dict | list)
    return named or bool(picture and columns.find("text", document))


def _records(document: dict, path: str, settings: IngestConfig) -> Iterator[dict] | None:
    """Returns the records of an object; None if it has none.

    Raises:
      UserError: several of its lists could be meant, or it is of COCO's without captions.
    """
    if _is_record(document, settings):
        return iter([document])
    lists = [name for name, value in document.items() if _is_list(value)]
    if "images" in lists and isinstance(document.get("annotations"), list):
        return join_captions(document["images"], document["annotations"], path, settings)
    if "images" in lists or len(lists) == 1:
        return map(_with_path, document["images" if "images" in lists else lists[0]])
    if lists:
        raise UserError(
            f"{path} has several lists of objects ({', '.join(lists)}); save the one with the "
            "images as a file of its own"
        )
    if document and all(isinstance(value, dict) and value for value in document.values()):
        columns = FieldMapping(settings)
        return (_named(name, value, columns) for name, value in document.items())
    if document and all(name.lower().endswith(IMAGES) for name in document):
        return ({"image": name, "text": text} for name, text in document.items())
    return None


def _is_list(value: Any) -> bool:
    """Returns whether a value is a list of objects, by its first."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(value[0])


def _with_path(record: Any) -> Any:
    """Returns a record with its path in one field; Karpathy's splits have folder and name."""
    if not isinstance(record, dict) or "image" in record:
        return record
    folder, name = record.get("filepath"), record.get("filename")
    if isinstance(folder, str) and isinstance(name, str) and not folder.endswith(name):
        return record | {"image": f"{folder}/{name}"}
    return record


def _named(name: str, record: dict, columns: FieldMapping) -> dict:
    """Returns a record that is the value of its key or, without an image field, of its path."""
    if columns.find_picture(record)[1]:
        return {"key": name} | record
    return {"image": name} | record


def join_captions(
    images: list, annotations: list, path: str, settings: IngestConfig
) -> Iterator[dict]:
    """Returns COCO's images, each with all of its captions; captions of none come last.

    Raises:
      UserError: the annotations are not captions.
    """
    columns = FieldMapping(settings)
    captions: dict[Any, list[dict]] = {}
    for annotation in annotations:
        if isinstance(annotation, dict) and columns.find("text", annotation):
            captions.setdefault(_hashable(annotation.get("image_id")), []).append(annotation)
    if not captions and not settings.allow_no_text:
        raise UserError(
            f"{path} is in COCO's format and its annotations have no captions; take COCO's "
            "captions_*.json, or name the field with --config.columns.text=NAME"
        )

    def records() -> Iterator[dict]:
        for image in images:
            if not isinstance(image, dict):
                yield image
                continue
            own = captions.pop(_hashable(image.get("id")), [])
            rest = {name: value for name, value in image.items() if name != "id"}
            yield {"image_id": image.get("id")} | rest | _texts(own, columns)
        for number, own in captions.items():
            yield {"image_id": number} | _texts(own, columns)

    return records()


def _texts(annotations: list[dict], columns: FieldMapping) -> dict:
    """Returns the fields of an image's captions."""
    name = columns.given("text") or "captions"
    texts = [annotation[columns.find("text", annotation)] for annotation in annotations]
    return {name: texts, "caption_ids": [annotation.get("id") for annotation in annotations]}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str) else str(value)
