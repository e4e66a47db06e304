"""Answers to questions about images: predicted by a model, or counted in a training set."""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.data.datasets import open_dataset, plain_value
from blip_jax.data.fields import questions_of
from blip_jax.decoding import Decoding, Generated
from blip_jax.models import Model
from blip_jax.models.answering import answer_by_image, image_tokens_function, rank_by_image
from blip_jax.models.inputs import encode_candidates
from blip_jax.models.results import captions_of
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Prediction
from blip_jax.tasks.eval_dataset import EvalDataset

SPLIT = "train"  # of a dataset whose answers are the candidates


def predict_answers(
    model: Model,
    dataset: EvalDataset,
    decoding: Decoding,
    candidates: Sequence[str] = (),
    rank_k: int = 128,
) -> list[Prediction]:
    """Returns {"key": the question's id, "image", "question", "answer", "log_probability"}.

    An image is encoded once for all its questions.

    Args:
      decoding: how answers are generated without candidates.
      candidates: answers to choose the likeliest of.
      rank_k: candidates that are scored in full, chosen by their first token.

    Raises:
      UserError: the model cannot answer, or no record has a question.
    """
    model.require("answer")
    images, questions = dataset.entries(questions_of)
    if not questions:
        raise UserError(f"no question in {dataset.name}; evaluate on a dataset with questions")
    texts = [model.tokenizer.cleanup.question(question["question"]) for question in questions]
    ids, mask = model.tokenizer.encode(texts, model.max_length)
    arrays = np.array(images), ids, mask
    if candidates:
        answers, scores = _ranked(model, dataset, arrays, candidates, rank_k)
    else:
        answers, scores = _generated(model, dataset, arrays, decoding)
    return [
        {
            "key": question["id"],
            "image": dataset.records[image]["key"],
            "question": question["question"],
            "answer": answer,
            "log_probability": float(score),
        }
        for question, image, answer, score in zip(questions, images, answers, scores, strict=True)
    ]


def _ranked(
    model: Model, dataset: EvalDataset, arrays: tuple, candidates: Sequence[str], rank_k: int
) -> tuple[list[str], np.ndarray]:
    shared = encode_candidates(model.tokenizer, list(candidates), model.config.med.max_length)
    encode, rank = image_tokens_function(model), rank_by_image(model, min(rank_k, len(candidates)))
    rank = functools.partial(rank, shared)
    index, scores = dataset.share_by_image(
        encode, rank, *arrays, title="answers", settings=list(candidates)
    )
    return [candidates[i] for i in index], scores


def _generated(
    model: Model, dataset: EvalDataset, arrays: tuple, decoding: Decoding
) -> tuple[list[str], list[float]]:
    decoding = dataclasses.replace(decoding, num_captions=1)
    encode, write = image_tokens_function(model), answer_by_image(model, decoding)
    found = Generated(*dataset.share_by_image(encode, write, *arrays, title="answers"))
    captions = captions_of(found, np.ones(len(found.tokens), int), model.tokenizer)
    return [row[0].text for row in captions], [row[0].score for row in captions]


def answered_questions(
    predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the predicted answers, and the question of each, where the right one is known."""
    known = {q["id"]: q for record in records for q in questions_of(record) if q["answers"]}
    rows = [p for p in predictions if isinstance(p.get("answer"), str) and p["key"] in known]
    return [p["answer"] for p in rows], [known[p["key"]] for p in rows]


@functools.lru_cache(maxsize=2)
def training_answers(dataset: str, count: int) -> tuple[str, ...]:
    """Returns the most frequent answers of a dataset's training split, at most `count`.

    An answer counts once a question whose most frequent answer it is; equal ones are in order of
    the alphabet.

    Raises:
      UserError: there is no such dataset, or it has no answers.
    """
    counts: collections.Counter = collections.Counter()
    for record in open_dataset(dataset, SPLIT, ("key", "fields")):
        for question in questions_of({"fields": plain_value(record["fields"])}):
            votes = collections.Counter(question["answers"])
            if votes:
                counts[min(votes, key=lambda answer: (-votes[answer], answer))] += 1
    if not counts:
        raise UserError(
            f"config.task.candidates: {dataset}, split {SPLIT}, has no questions with answers"
        )
    best = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return tuple(best[:count])
