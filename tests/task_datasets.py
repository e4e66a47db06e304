"""Datasets of questions and of pairs with statements about scenes of the Shapes dataset."""

import json

import numpy as np
import tensorflow_datasets as tfds
import tiny
import tiny_dataset

from blip_jax.data.synthetic.builder import ShapesConfig, features_of, make_record
from blip_jax.data.synthetic.scenes import World

SHAPES = ShapesConfig(
    kind="human", world=World(image_size=tiny.IMAGE), train=24, val=0, test=0, seed=5
)
_F = tfds.features
FEATURES = _F.FeaturesDict({
    "key": _F.Text(),
    "image": _F.Image(encoding_format="png"),
    "texts": _F.Sequence(_F.Text()),
    "fields": _F.Text(),
})  # fmt: skip
PAIR_FEATURES = _F.FeaturesDict({**FEATURES, "second_image": _F.Image(encoding_format="png")})
BROKEN = 3  # row whose image does not decode


def scene(row: int) -> tuple[dict, dict]:
    """Returns a Shapes record and its scene."""
    record = make_record(row, "train", SHAPES)
    return record, json.loads(record["truth"])["scene"]


def questions(folder, count: int = 12) -> str:
    """Writes records with two questions each; returns the dataset's folder."""
    records = []
    for row in range(count):
        record, found = scene(row)
        objects = len(found["objects"])
        asked = [
            {"id": f"{row}-0", "question": "How many objects are there?", "type": "number",
             "answers": [str(objects)] * 7 + ["many"] * 3},
            {"id": f"{row}-1", "question": "What colour is the background?", "type": "other",
             "answers": [found["background"]] * 10},
        ]  # fmt: skip
        image = b"no image" if row == BROKEN else record["image"]
        records.append(_record(record, image, {"questions": asked}))
    return tiny_dataset.write(f"{folder}/questions", records, FEATURES)


def pairs(folder, count: int = 12) -> str:
    """Writes pairs of images with two statements each; returns the dataset's folder."""
    records = []
    for row in range(count):
        (record, left), (other, right) = scene(row), scene(row + 1)
        more = len(left["objects"]) > len(right["objects"])
        statements = [
            {"id": f"{row}-0", "statement": "The left image has more objects.", "label": more,
             "group": str(row // 2)},
            {"id": f"{row}-1", "statement": "Both images show something.", "label": "True",
             "group": f"both {row // 2}"},
        ]  # fmt: skip
        image = b"no image" if row == BROKEN else other["image"]
        made = _record(record, record["image"], {"statements": statements})
        records.append({**made, "second_image": image})
    return tiny_dataset.write(f"{folder}/pairs", records, PAIR_FEATURES)


def _record(record: dict, image: bytes, fields: dict) -> dict:
    return {"key": record["key"], "image": image, "texts": [], "fields": json.dumps(fields)}


def batches(task, dataset_rows, count: int) -> dict[str, np.ndarray]:
    """Returns a batch of `count` examples of a task, without grain."""
    rng = np.random.default_rng(0)
    examples = [task.example(dataset_rows[row], rng) for row in range(count)]
    return {**task.collate(examples), "valid": np.ones(count, bool)}


def unanswered(folder, count: int = 5) -> str:
    """Writes records with a question each and no answers, as of a test split."""
    records = []
    for row in range(count):
        record, _ = scene(row)
        image = b"no image" if row == BROKEN else record["image"]
        asked = [{"id": str(row), "question": "How many objects are there?", "answers": []}]
        records.append(_record(record, image, {"questions": asked}))
    return tiny_dataset.write(f"{folder}/unanswered", records, FEATURES)


def dialogs(folder, count: int = 12, answers: bool = True) -> str:
    """Writes dialogs of two rounds with four options; returns the dataset's folder.

    Without answers as VisDial's test split: the last round has options alone, the first none.
    """
    settings = ShapesConfig(
        kind="dialog", world=SHAPES.world, train=count, val=0, test=0, rounds=2, options=4
    )
    records = []
    for row in range(count):
        record = make_record(row, "train", settings)
        image = b"no image" if row == BROKEN else record["image"]
        fields = json.loads(record["fields"])
        if not answers:
            first, last = fields["rounds"]
            rounds = [{"question": first["question"], "answer": first["answer"]}]
            rounds.append({"question": last["question"], "options": last["options"]})
            fields = {"caption": fields["caption"], "rounds": rounds}
        records.append(_record({"key": str(row)}, image, fields))
    return tiny_dataset.write(f"{folder}/dialogs{'' if answers else '-test'}", records, FEATURES)


def clips(folder, count: int = 8, frames: int = 4) -> str:
    """Writes clips with a caption and a question each; returns the dataset's folder.

    The video of row BROKEN is no video.
    """
    settings = ShapesConfig(
        kind="clips", world=SHAPES.world, train=count, val=0, test=0, frames=frames
    )
    records = [make_record(row, "train", settings) for row in range(count)]
    records[BROKEN]["video"] = b"no video"
    return tiny_dataset.write(f"{folder}/clips", records, features_of("clips"))
