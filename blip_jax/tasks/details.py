"""What is said of each prediction: its input, the right answer, and how good it is.

Lines of predictions.jsonl and cards of the page of examples are made of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from blip_jax.data.dialog import DialogRound, dialog_round
from blip_jax.data.fields import dialog_caption, questions_of, rounds_of, statements_of
from blip_jax.metrics.captioning import cider_by_caption, has_words
from blip_jax.metrics.vqa import soft_accuracy
from blip_jax.runtime.numbers import is_digits, is_number
from blip_jax.tasks.base import Prediction

Records = Sequence[Mapping[str, Any]]
SHOWN_OPTIONS = 5  # best options of a round, or texts of an image
SHOWN_IMAGES = 3  # best images of a text


@dataclasses.dataclass(frozen=True)
class Option:
    """A ranked candidate: its text, the model's score of it, and whether it is right."""

    text: str
    score: float
    is_right: bool


@dataclasses.dataclass(frozen=True)
class AttentionQuery:
    """What `Model.gradcam` is asked for a prediction.

    Attributes:
      image: key of a record.
      text: a text, or a round of a dialog with one candidate.
    """

    image: str
    text: str | DialogRound
    of: str
    answer: str = ""


@dataclasses.dataclass(frozen=True)
class Details:
    """What is said of a prediction.

    Attributes:
      input: question, statement or text that the model was given; of an image alone its key.
      prediction: JSON value: text, true or false, or texts and keys in the order of their scores.
      reference: list of right texts, keys, or the right truth value; None if unknown.
      score: of the prediction, by the model: a probability, log-probability or log-odds.
      metric: how good the prediction is, the higher the better; None if it is not known.
      metric_name: what the metric is.
      group: predictions whose metrics are compared; "" if all are.
      images: keys of the records whose images are shown, the best first, with what is right.
      options: the best candidates.
      history: lines before the input, of a dialog.
      attention: None if there is no attention map of it.
    """

    input: str
    prediction: Any
    reference: Any
    score: float | None
    metric: float | None
    metric_name: str
    images: tuple[tuple[str, bool | None], ...]
    group: str = ""
    options: tuple[Option, ...] = ()
    history: tuple[str, ...] = ()
    attention: AttentionQuery | None = None


def described(prediction: Prediction, details: Details | None) -> Prediction:
    """Returns a line of predictions.jsonl: key, input, prediction, score, reference, metric.

    The task's own fields follow, those that metrics are computed from.
    """
    if details is None:
        return prediction
    line = {"key": prediction["key"], "input": details.input, "prediction": details.prediction}
    line |= {"score": details.score, "reference": details.reference, "metric": details.metric}
    return line | {name: value for name, value in prediction.items() if name not in line}


def answer_details(predictions: Sequence[Prediction], records: Records) -> list[Details | None]:
    """Returns those of answers to questions; the metric is VQA's soft accuracy, 0 to 1."""
    asked = {q["id"]: (r["key"], q) for r in records for q in questions_of(r)}

    def of(prediction: Prediction) -> Details | None:
        answer = prediction.get("answer")
        if prediction["key"] not in asked or not isinstance(answer, str):
            return None
        image, question = asked[prediction["key"]]
        return Details(
            input=question["question"],
            prediction=answer,
            reference=question["answers"] or None,
            score=_number(prediction.get("log_probability")),
            metric=_number(soft_accuracy(answer, question["answers"])),
            metric_name="accuracy",
            images=((image, None),),
            attention=AttentionQuery(image, question["question"], "answer", answer),
        )

    return [of(prediction) for prediction in predictions]


def caption_details(predictions: Sequence[Prediction], records: Records) -> list[Details | None]:
    """Returns those of captions; the metric is CIDEr, from 0, mostly below 3."""
    texts = {record["key"]: list(record.get("texts", ())) for record in records}
    rows = [
        p
        for p in predictions
        if isinstance(p.get("caption"), str) and has_words(texts.get(p.get("key", ""), ()))
    ]
    found = cider_by_caption([p["caption"] for p in rows], [texts[p["key"]] for p in rows])
    cider = {id(p): value for p, value in zip(rows, found, strict=True)}

    def of(prediction: Prediction) -> Details | None:
        if id(prediction) not in cider:
            return None
        key, caption = prediction["key"], prediction["caption"]
        return Details(
            input=key,
            prediction=caption,
            reference=texts[key],
            score=_number(prediction.get("score")),
            metric=_number(cider[id(prediction)]),
            metric_name="CIDEr",
            images=((key, None),),
            group="captions",
            attention=AttentionQuery(key, caption, "caption"),
        )

    return [of(prediction) for prediction in predictions]


def statement_details(predictions: Sequence[Prediction], records: Records) -> list[Details | None]:
    """Returns those of statements about two images; the metric is 1 or 0, right or wrong."""
    known = {s["id"]: (r["key"], s) for r in records for s in statements_of(r)}

    def of(prediction: Prediction) -> Details | None:
        answer = prediction.get("answer")
        if prediction["key"] not in known or not isinstance(answer, bool):
            return None
        image, statement = known[prediction["key"]]
        label, p_true = statement["label"], _number(prediction.get("probability"))
        return Details(
            input=statement["statement"],
            prediction=answer,
            reference=label,
            score=p_true if answer or p_true is None else 1 - p_true,
            metric=None if label is None else float(answer == label),
            metric_name="accuracy",
            images=((image, None),),
            attention=AttentionQuery(image, statement["statement"], "verify"),
        )

    return [of(prediction) for prediction in predictions]


def round_details(predictions: Sequence[Prediction], records: Records) -> list[Details | None]:
    """Returns those of rounds of a dialog; the metric is 1 over the rank of the right option."""
    asked = {}
    for record in records:
        for number, entry in enumerate(rounds := rounds_of(record)):
            lines = [f"{earlier['question']} {earlier['answer']}" for earlier in rounds[:number]]
            asked[entry["id"]] = record, number, entry, (dialog_caption(record), *lines)

    def of(prediction: Prediction) -> Details | None:
        record, number, entry, history = asked.get(prediction["key"], ({}, 0, {"options": []}, ()))
        options, scores = entry["options"], prediction.get("scores")
        if not options or not isinstance(scores, list) or len(scores) != len(options):
            return None
        right = entry["answer_index"]
        order = sorted(range(len(options)), key=lambda i: -scores[i])
        above = [i for i in order if right is not None and scores[i] > scores[right]]
        best = order[:SHOWN_OPTIONS]
        shown = dialog_round(record, number, [options[order[0]]])
        return Details(
            input=entry["question"],
            prediction=options[order[0]],
            reference=None if right is None else [options[right]],
            score=_number(scores[order[0]]),
            metric=None if right is None else 1 / (1 + len(above)),
            metric_name="1 / rank",
            images=((record["key"], None),),
            options=tuple(Option(options[i], scores[i], i == right) for i in best),
            history=history,
            attention=AttentionQuery(record["key"], shown, "rank_dialog"),
        )

    return [of(prediction) for prediction in predictions]


def match_details(predictions: Sequence[Prediction], records: Records) -> list[Details | None]:
    """Returns those of retrieval, of ITM's ranking where there is one.

    The metric is 1 over the rank of the first right candidate, 0 if none is among those of the
    prediction.
    """
    texts = {record["key"]: list(record.get("texts", ())) for record in records}

    def text_of(name: str) -> str:
        key, _, number = name.rpartition("#")
        own = texts.get(key, [])
        return own[int(number)] if is_digits(number) and int(number) < len(own) else name

    def of(prediction: Prediction) -> Details | None:
        found = prediction.get("itm") or prediction.get("itc") or {}
        top, scores = found.get("top"), found.get("scores")
        from_text = prediction.get("direction") == "t2i"
        key = prediction["key"].rpartition("#")[0] if from_text else prediction["key"]
        if not top or key not in texts or not scores or len(scores) != len(top):
            return None
        owners = top if from_text else [name.rpartition("#")[0] for name in top]
        right = [owner == key for owner in owners]
        query = text_of(prediction["key"])
        best = query if from_text else text_of(top[0])
        images = list(zip(owners, right, strict=True))[:SHOWN_IMAGES]
        options = [] if from_text else list(zip(top, scores, right, strict=True))[:SHOWN_OPTIONS]
        return Details(
            input=query if from_text else key,
            prediction=top if from_text else [text_of(name) for name in top],
            reference=[key] if from_text else texts[key],
            score=_number(scores[0]),
            metric=1 / (1 + right.index(True)) if any(right) else 0.0,
            metric_name="1 / rank",
            images=tuple(images) if from_text else ((key, None),),
            group="images of a text" if from_text else "texts of an image",
            options=tuple(Option(text_of(name), score, good) for name, score, good in options),
            attention=AttentionQuery(owners[0] if from_text else key, best, "match"),
        )

    return [of(prediction) for prediction in predictions]


def _number(value: Any) -> float | None:
    """Returns a finite number, or None."""
    return float(value) if is_number(value) else None
