"""What is reached without looking at images: the baseline of each task.

Answers are those that the texts of the training split make likely.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.data.fields import questions_of, rounds_of, statements_of
from blip_jax.tasks.base import Prediction, TaskConfig
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig

Records = Sequence[Mapping[str, Any]]


def predict_by_chance(task: TaskConfig, train: Records, test: Records) -> list[Prediction]:
    """Returns predictions of the test records that depend on their texts alone.

    Questions get the most frequent answer to training questions of their `template`, statements the
    most frequent label, options of a dialog are ranked by how often they were right for the
    template, images get the captions of training images. Retrieval is left to `retrieval_chance`.

    Args:
      task: of the evaluation.
      train, test: records without images.
    """
    if isinstance(task, VqaConfig):
        counts = _counts(
            (q["template"], a) for r in train for q in questions_of(r) for a in q["answers"]
        )
        return [
            {"key": q["id"], "answer": _most_frequent(counts[q["template"]], "")}
            for record in test
            for q in questions_of(record)
        ]
    if isinstance(task, NlvrConfig):
        labels = collections.Counter(s["label"] for record in train for s in statements_of(record))
        answer = bool(_most_frequent(labels, True))
        return [{"key": s["id"], "answer": answer} for r in test for s in statements_of(r)]
    if isinstance(task, VisdialConfig):
        counts = _counts((x["template"], x["answer"]) for r in train for x in rounds_of(r))
        return [
            {"key": x["id"], "scores": [float(counts[x["template"]][o]) for o in x["options"]]}
            for record in test
            for x in rounds_of(record)
        ]
    if isinstance(task, CaptioningConfig):
        texts = [text for record in train for text in record["texts"]]
        return [
            {"key": record["key"], "caption": texts[number % len(texts)]}
            for number, record in enumerate(test)
        ]
    return []


def _most_frequent(counts: collections.Counter, default: Any) -> Any:
    return max(counts, key=lambda value: counts[value], default=default)


def _counts(pairs: Iterable[tuple[str, str]]) -> dict[str, collections.Counter]:
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for group, value in pairs:
        found[group][value] += 1
    return found


def retrieval_chance(test: Records) -> float:
    """Returns the expected R@1 in percent of a random ranking, the mean of both directions."""
    counts = np.array([len(record["texts"]) for record in test])
    to_text = (counts[counts > 0] / counts.sum()).mean()
    return float(50 * (to_text + 1 / len(counts)))
