"""Ranking of the options of rounds of dialogs: predictions, metrics, submission file.

B images, R rounds of an image, C options of the round that has most.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from blip_jax.data.dialog import dialog_round, encode_rounds
from blip_jax.data.fields import rounds_of
from blip_jax.metrics import visdial
from blip_jax.models import Model
from blip_jax.models.batching import run_in_batches
from blip_jax.models.dialogs import dialog_score_function, text_lengths
from blip_jax.models.functions import hidden_states_function
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.numbers import is_digits, is_number
from blip_jax.tasks.base import Prediction
from blip_jax.tasks.eval_dataset import EvalDataset, RowsOf

ROUNDS_PER_DEVICE = 4  # in a batch; a device reads one after the other


def rank_rounds(
    model: Model, dataset: EvalDataset, max_length: int, chunk: int
) -> list[Prediction]:
    """Returns {"key", "image", "question", "answer", "scores"} of each round with options.

    "key" is the record's key, "#" and the number of the round, from 1; "answer" is the best option;
    "scores" are the log-odds of each option being right. An image is encoded once for all rounds.

    Args:
      chunk: see `dialog_score_function`; it does not change scores.

    Raises:
      UserError: the model cannot rank dialogs, or no record has a round with options.
    """
    model.require("rank_dialog")
    listed = [rounds_of(record) for record in dataset.records]
    numbers = [[n for n, entry in enumerate(rounds) if entry["options"]] for rounds in listed]
    rows = np.array([row for row, found in enumerate(numbers) if found])
    if not len(rows):
        raise UserError(
            f"no dialog with options in {dataset.name}; evaluate on a dataset with rounds"
        )
    score = RoundScorer(model, dataset.records, numbers, max_length, chunk)
    (scores,) = dataset.share(score, RowsOf(dataset.images, rows), rows, title="dialogs")
    predictions = []
    for row, of_image in zip(rows, scores, strict=True):
        for number, found in zip(numbers[row], of_image, strict=False):
            entry = listed[row][number]
            found = found[: len(entry["options"])]
            predictions.append({
                "key": entry["id"],
                "image": dataset.records[row]["key"],
                "question": entry["question"],
                "answer": entry["options"][int(found.argmax())],
                "scores": [float(score) for score in found],
            })  # fmt: skip
    return predictions


class RoundScorer:
    """Scores of the rounds of images, float32 [B, R, C]; called with images and rows of records.

    Args:
      numbers: of each record the rounds that are scored; R is the most of a record.
      max_length, chunk: see `rank_rounds`.
    """

    def __init__(
        self,
        model: Model,
        records: Sequence[Mapping[str, Any]],
        numbers: Sequence[Sequence[int]],
        max_length: int,
        chunk: int,
    ):
        self._tokenizer, self._records = model.tokenizer, records
        self._numbers, self._max_length = numbers, max_length
        options = [len(entry["options"]) for record in records for entry in rounds_of(record)]
        self._shape = max(map(len, numbers)), max(options)
        self._encode = hidden_states_function(model, ("image",))
        self._score = dialog_score_function(model, chunk)

    def __call__(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        tokens = self._encode(images)
        rows, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
        places = [(i, n) for i, row in enumerate(rows) for n in range(len(self._numbers[row]))]
        image, place = np.array(places).T
        rounds = [dialog_round(self._records[rows[i]], self._numbers[rows[i]][n],
                               cleanup=self._tokenizer.cleanup)
                  for i, n in places]  # fmt: skip
        ids, mask = encode_rounds(self._tokenizer, rounds, self._shape[1], self._max_length)
        scores = np.zeros((len(rows), *self._shape), np.float32)
        # Rounds of one length together, so that short ones are not read with many pads.
        lengths = text_lengths(mask, self._max_length)
        for length in np.unique(lengths):
            some = np.flatnonzero(lengths == length)
            (found,) = run_in_batches(
                self._score,
                ROUNDS_PER_DEVICE * jax.local_device_count(),
                RowsOf(tokens, first[image[some]]),
                ids[some, :, :length],
                mask[some, :, :length],
            )
            scores[image[some], place[some]] = found
        return scores[inverse]


def dialog_metrics(
    predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Returns `visdial_metrics` of the predictions of rounds whose answer or relevance is known.

    Raises:
      UserError: a prediction has another number of scores than its round has options, or NaN.
    """
    known = {
        entry["id"]: entry
        for record in records
        for entry in rounds_of(record)
        if entry["answer_index"] is not None or entry["relevance"]
    }
    found = [(p, known[p["key"]]) for p in predictions if p["key"] in known and _scores(p)]
    if not found:
        return {}
    count = max(len(entry["options"]) for _, entry in found)
    scores = np.full((len(found), count), -np.inf)  # options that a round has not come last
    relevance = np.full((len(found), count), np.nan)
    for row, (prediction, entry) in enumerate(found):
        size = len(entry["options"])
        if len(prediction["scores"]) != size:
            raise UserError(
                f"the prediction {prediction['key']} has {len(prediction['scores'])} scores for "
                f"{size} options; give one for each"
            )
        scores[row, :size] = prediction["scores"]
        if entry["relevance"]:
            relevance[row] = [*entry["relevance"], *[0.0] * (count - size)]
    index = [-1 if e["answer_index"] is None else e["answer_index"] for _, e in found]
    return visdial.visdial_metrics(scores, np.array(index), relevance)


def dialog_submission(predictions: Sequence[Prediction]) -> list[dict[str, Any]] | None:
    """Returns what VisDial's evaluation server takes; None if a key is not IMAGE#ROUND in numbers.

    None, too, if rounds have different numbers of options.
    """
    rows = [p for p in predictions if _scores(p)]
    places = [p["key"].rpartition("#")[::2] for p in rows]
    if not rows or len({len(p["scores"]) for p in rows}) > 1:
        return None
    if not all(is_digits(x) for place in places for x in place):
        return None
    images, numbers = zip(*places, strict=True)
    return visdial.submission(images, numbers, [p["scores"] for p in rows])


def _scores(prediction: Prediction) -> bool:
    """Returns whether a prediction has scores, a list of numbers or NaN."""
    scores = prediction.get("scores")
    if not isinstance(scores, list) or not scores:
        return False
    return all(is_number(x) or isinstance(x, float) for x in scores)
