"""Ranking of the options of rounds of dialogs: predictions, metrics, submission file.

R rounds, C options of the round that has most, T tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.data.dialog import dialog_round, encode_rounds
from blip_jax.data.fields import rounds_of
from blip_jax.metrics import visdial
from blip_jax.models import Model
from blip_jax.models.dialogs import dialog_function
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Prediction
from blip_jax.tasks.eval_dataset import EvalDataset, RowsOf


class EncodedRounds:
    """Ids and mask int32 [R, 2, C, T] of rounds, made when they are indexed.

    All at once would be 3 GB for the validation split of VisDial v1.0.

    Args:
      places: row of the record and number of the round, from 0, of each.
      count: C; max_length: T.
    """

    def __init__(
        self, tokenizer: Any, records: Sequence[Mapping[str, Any]], places: Sequence[tuple],
        count: int, max_length: int,
    ):  # fmt: skip
        self._tokenizer, self._records, self._places = tokenizer, records, places
        self._count, self._max_length = count, max_length

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        places = [self._places[row] for row in rows]
        rounds = [dialog_round(self._records[row], number) for row, number in places]
        ids, mask = encode_rounds(self._tokenizer, rounds, self._count, self._max_length)
        return np.stack([ids, mask.astype(np.int32)], axis=1)


def rank_rounds(
    model: Model, dataset: EvalDataset, max_length: int, chunk: int
) -> list[Prediction]:
    """Returns {"key", "image", "question", "answer", "scores"} of each round with options.

    "key" is the record's key, "#" and the number of the round, from 1; "answer" is the best option;
    "scores" are the log-odds of each option being right.

    Args:
      chunk: see `dialog_function`; it does not change scores.

    Raises:
      UserError: the model cannot rank dialogs, or no record has a round with options.
    """
    model.require("rank_dialog")
    listed = [rounds_of(record) for record in dataset.records]
    places = [
        (row, number)
        for row, rounds in enumerate(listed)
        for number, entry in enumerate(rounds)
        if entry["options"]
    ]
    if not places:
        raise UserError(
            f"no dialog with options in {dataset.name}; evaluate on a dataset with rounds"
        )
    rounds = [listed[row][number] for row, number in places]
    count = max(len(entry["options"]) for entry in rounds)
    function = dialog_function(model, chunk)
    (scores,) = dataset.share(
        lambda images, texts: function(images, texts[:, 0], texts[:, 1] > 0),
        RowsOf(dataset.images, np.array([row for row, _ in places])),
        EncodedRounds(model.tokenizer, dataset.records, places, count, max_length),
        title="rounds",
    )
    predictions = []
    for (row, _), entry, found in zip(places, rounds, scores, strict=True):
        found = found[: len(entry["options"])]
        predictions.append({
            "key": entry["id"],
            "image": dataset.records[row]["key"],
            "question": entry["question"],
            "answer": entry["options"][int(found.argmax())],
            "scores": [float(score) for score in found],
        })  # fmt: skip
    return predictions


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
    if not all(x.isascii() and x.isdigit() for place in places for x in place):
        return None
    images, numbers = zip(*places, strict=True)
    return visdial.submission(images, numbers, [p["scores"] for p in rows])


def _scores(prediction: Prediction) -> bool:
    """Returns whether a prediction has scores, a list of numbers."""
    scores = prediction.get("scores")
    if not isinstance(scores, list) or not scores:
        return False
    return all(type(x) in (int, float) for x in scores)
