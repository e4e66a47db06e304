"""VQA v2: questions about COCO's images, with ten answers each; test has no answers.

    FOLDER/v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json
    FOLDER/v2_mscoco_{train2014,val2014}_annotations.json
    FOLDER/vqa_{train,val,test}.json         or the same as BLIP's lists
    FOLDER/val2014/COCO_val2014_000000262148.jpg, FOLDER/test2015/…

A record is an image with all of its questions. The answers are in the annotators' order, so that
equal ones are votes.
"""

from __future__ import annotations

from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import blip_lists, coco_images
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

SUBTYPES = {"train": "train2014", "val": "val2014", "test": "test2015", "test_dev": "test-dev2015"}


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    if files[0].name.startswith("vqa_"):
        return blip_lists.questions(files[0], coco_images.image_id)
    return _joined(files[0], files[1] if len(files) > 1 else None, SUBTYPES[settings.split])


def _joined(
    questions: OwnerFile, annotations: OwnerFile | None, subtype: str
) -> Iterator[ImageRecord]:
    """Yields the images of a file of questions, which get their answers by their ids."""
    document = questions.load()
    fields = {"image_id": int, "question_id": int, "question": str}
    rows = questions.rows(document, "questions", fields)
    _check_subtype(questions, document, subtype)
    answers = {} if annotations is None else _answers(annotations, subtype)
    images: dict[int, list[dict]] = {}
    for row in rows:
        number = row["question_id"]
        if annotations is not None and number not in answers:
            raise annotations.wrong(f"has no answers to question {number} of {questions.path}")
        value = {"id": str(number), "question": row["question"], "answers": [], "type": ""}
        images.setdefault(row["image_id"], []).append(value | answers.get(number, {}))
    folder = subtype.replace("test-dev", "test")
    for image_id, asked in images.items():
        fields = {"image_id": str(image_id), "questions": asked}
        yield ImageRecord(str(image_id), coco_images.image_path(folder, image_id), fields=fields)


def _answers(file: OwnerFile, subtype: str) -> dict[int, dict]:
    """Returns answers and types by the ids of the questions."""
    document = file.load()
    rows = file.rows(document, "annotations", {"question_id": int, "answers": list})
    _check_subtype(file, document, subtype)
    found = {}
    for row in rows:
        given = file.rows(row["answers"], "", {"answer": str})
        found[row["question_id"]] = {
            "answers": [answer["answer"] for answer in given],
            "type": row.get("answer_type", ""),
            "question_type": row.get("question_type", ""),
        }
    return found


def _check_subtype(file: OwnerFile, document: dict, subtype: str) -> None:
    found = document.get("data_subtype", subtype)
    if found != subtype:
        raise file.wrong(f"has the data_subtype {found!r}, not {subtype!r}")


def _files(split: str) -> tuple[str, ...]:
    questions = f"v2_OpenEnded_mscoco_{SUBTYPES[split]}_questions.json"
    annotations = f"v2_mscoco_{SUBTYPES[split]}_annotations.json"
    return (questions,) if split.startswith("test") else (questions, annotations)


def _split(name: str, published: dict[str, int]) -> Split:
    blip = ((f"vqa_{name}.json",),) if name != "test_dev" else ()
    return Split((_files(name), *blip), published)


BENCHMARK = Benchmark(
    name="vqa_v2",
    url="https://visualqa.org/download.html",
    splits={
        "train": _split("train", {"images": 82_783, "questions": 443_757}),
        "val": _split("val", {"images": 40_504, "questions": 214_354}),
        "test": _split("test", {"images": 81_434, "questions": 447_793}),
        "test_dev": _split("test_dev", {"questions": 107_394}),
    },
    read=_read,
)
