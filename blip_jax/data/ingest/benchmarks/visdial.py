"""VisDial 1.0: dialogs about an image, ten rounds of a question and 100 candidate answers.

    FOLDER/visdial_1.0_{train,val,test}.json
    FOLDER/visdial_1.0_{train,val}_dense_annotations.json   relevance of the candidates of one round
    FOLDER/train2014/COCO_train2014_….jpg, FOLDER/val2014/… the images of train
    FOLDER/VisualDialog_val2018/VisualDialog_val2018_….jpg, FOLDER/VisualDialog_test2018/…

A record's texts hold the caption; `fields` has {"caption", "rounds": [{"question", "answer",
"options", "answer_index", "relevance"}, …]}. In test the last round has options, but no answer ("")
and no answer_index (None), and the rounds before it have an answer, but no options.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blip_jax.data.ingest.benchmarks import coco_images
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime.numbers import is_number

TRAIN_FOLDERS = ("train2014", "val2014")  # the files do not say in which an image is


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    file, split = files[0], settings.split
    document = file.load()
    data = document.get("data") if isinstance(document, dict) else None
    fields = {"image_id": int, "caption": str, "dialog": list}
    dialogs = file.rows(data, "dialogs", fields)
    pools = {name: data.get(name) for name in ("questions", "answers")}
    for name, pool in pools.items():
        if not isinstance(pool, list) or not all(isinstance(text, str) for text in pool):
            raise file.wrong(f"has no list 'data.{name}' of texts")
    if not str(document.get("split", split)).startswith(split):
        raise file.wrong(f"has the split {document['split']!r}, not {split!r}")
    relevance = _relevance(files[1]) if len(files) > 1 else {}
    for dialog in dialogs:
        number = dialog["image_id"]
        try:
            rounds = [_round(row, pools) for row in dialog["dialog"]]
        except (TypeError, AttributeError, KeyError, IndexError) as error:
            raise file.wrong(
                f"has a dialog of image {number} with a question or answer that is not in its "
                "lists, or a gt_index that is not in its answer_options"
            ) from error
        for place, values in relevance.get(number, {}).items():
            if not 0 < place <= len(rounds) or len(values) != len(rounds[place - 1]["options"]):
                raise files[1].wrong(f"does not fit the options of image {number}")
            rounds[place - 1]["relevance"] = values
        image, *elsewhere = _images(split, number)
        fields = {"image_id": str(number), "caption": dialog["caption"], "rounds": rounds}
        yield ImageRecord(str(number), image, [dialog["caption"]], fields, tuple(elsewhere))


def _round(row: dict, pools: dict[str, list[str]]) -> dict[str, Any]:
    """Returns a round with texts in place of their numbers."""
    answers = pools["answers"]
    options = [_entry(answers, number) for number in row.get("answer_options", ())]
    index = row.get("gt_index")
    if index is not None:
        _entry(options, index)
    return {
        "question": _entry(pools["questions"], row["question"]),
        "answer": _entry(answers, row["answer"]) if "answer" in row else "",
        "options": options,
        "answer_index": index,
    }


def _entry(texts: list[str], number: Any) -> str:
    """Returns a text by its number.

    Raises:
      IndexError: there is none, or it is no number of 0 or more.
    """
    if type(number) is not int or number < 0:
        raise IndexError(number)
    return texts[number]


def _relevance(file: OwnerFile) -> dict[int, dict[int, list[float]]]:
    """Returns the relevance of each option: image id -> number of the round, from 1 -> values.

    The field is `gt_relevance` in the annotations of val, `relevance` in those of train.
    """
    found: dict[int, dict[int, list[float]]] = {}
    for number, row in enumerate(file.rows(file.load(), "", {"image_id": int, "round_id": int})):
        values = row.get("gt_relevance", row.get("relevance"))
        if not isinstance(values, list) or not all(is_number(x) and x >= 0 for x in values):
            raise file.wrong(
                f"has an element {number} in its list without 'gt_relevance', a list of numbers "
                "of 0 or more"
            )
        found.setdefault(row["image_id"], {})[row["round_id"]] = values
    return found


def _images(split: str, number: int) -> list[str]:
    if split == "train":
        return [coco_images.image_path(folder, number) for folder in TRAIN_FOLDERS]
    folder = f"VisualDialog_{split}2018"
    return [f"{folder}/{folder}_{number:012d}.jpg"]


def _split(name: str, dialogs: int, rounds: int | None, dense: bool = False) -> Split:
    published = {"images": dialogs} | ({"dialog rounds": rounds} if rounds else {})
    optional = {f"visdial_1.0_{name}_dense_annotations.json": "the records have no relevance"}
    return Split(((f"visdial_1.0_{name}.json",),), published, optional if dense else {})


BENCHMARK = Benchmark(
    name="visdial",
    url="https://visualdialog.org/data",
    splits={
        "train": _split("train", 123_287, 1_232_870, dense=True),
        "val": _split("val", 2_064, 20_640, dense=True),
        "test": _split("test", 8_000, None),
    },
    read=_read,
)
