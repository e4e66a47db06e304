"""What a record holds besides its image and texts, for tasks such as VQA: its field `fields`.

`fields` is the JSON of an object. `blip_jax/data/README.md` lists what tasks read of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blip_jax.data.datasets import to_text
from blip_jax.runtime.numbers import is_number

ANSWERS = ("answers", "answer")
STATEMENTS = ("statement", "sentence")
# Fields with texts, or with objects that have texts.
TEXT_FIELDS = ("questions", "question", *ANSWERS, "statements", *STATEMENTS, "rounds")
IDS = ("id", "question_id", "identifier")


def task_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the object in a record's field `fields`; {} if there is none, or other JSON.

    The field is text, or bytes as TFDS gives them.
    """
    try:
        found = json.loads(record.get("fields") or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def questions_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the questions about a record's image, as {"id", "question", "answers", …}.

    They are the field "questions", a list, or the record's own "question" with "answers" or
    "answer", and those of the records merged with it. Of a "question" that is a list, lists of the
    same length have a part for each. What is no such object is left out. "answers" is a list of
    texts, one of each annotator, [] if unknown; "id" is a text.
    """
    return _questions(task_fields(record), to_text(record.get("key", "")), Counter())


def _questions(fields: Mapping[str, Any], record: str, problems: Counter) -> list[dict[str, Any]]:
    questions: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(_entries(fields, "questions", ("question",), ANSWERS)):
        question = _text(entry.get("question"))
        if not question:
            problems["questions left out: not a text"] += 1
            continue
        given = next((entry[name] for name in ANSWERS if name in entry), [])
        listed = given if isinstance(given, list) else [given]
        answers = [text for text in map(_answer, listed) if text]
        problems["answers left out: not a text"] += len(listed) - len(answers)
        name = _id(entry, ("id", "question_id"))
        if known := questions.get((name, question)):  # a row for each annotator
            known["answers"] += answers
            continue
        own = {"id": name or f"{record}#{number}", "question": question, "answers": answers}
        questions[name, question] = {**entry, **own}
    return list(questions.values())


def statements_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the statements about a record's two images, as {"id", "statement", "label", "group"}.

    They are the field "statements", a list, or the record's own "statement" (or "sentence") with
    "label", and those of the records merged with it. "label" is True, False, or None if unknown;
    "group" names the statements that consistency counts together, by default those of the same
    words.
    """
    return _statements(task_fields(record), to_text(record.get("key", "")), Counter())


def _statements(fields: Mapping[str, Any], record: str, problems: Counter) -> list[dict[str, Any]]:
    statements = []
    for number, entry in enumerate(_entries(fields, "statements", STATEMENTS, ("label",))):
        text = next((text for name in STATEMENTS if (text := _text(entry.get(name)))), "")
        if not text:
            problems["statements left out: not a text"] += 1
            continue
        label = _truth_value(entry.get("label"))
        problems["statements whose label is neither true nor false"] += (
            label is None and "label" in entry
        )
        name = _id(entry, ("id", "identifier")) or f"{record}#{number}"
        group = _id(entry, ("group",)) or text
        statements.append({**entry, "id": name, "statement": text, "label": label, "group": group})
    return statements


def rounds_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rounds of a record's dialog, in order, as {"id", "question", "answer", …}.

    They are the field "rounds", a list; what is no object with a question ends the dialog. The
    other keys of a round: "options", a list of texts, [] if there are none; "answer_index", place
    of the right option, None if unknown; "relevance", a number of 0 or more for each option, None
    if unknown. "id" is the record's key, "#" and the round's number, from 1.
    """
    return _rounds(task_fields(record), to_text(record.get("key", "")), Counter())


def _rounds(fields: Mapping[str, Any], record: str, problems: Counter) -> list[dict[str, Any]]:
    listed = fields.get("rounds")
    listed = listed if isinstance(listed, list) else []
    rounds = []
    for number, entry in enumerate(listed, start=1):
        question = _text(entry.get("question")) if isinstance(entry, dict) else ""
        if not question:  # the rounds after it would follow another history
            left_out = len(listed) - len(rounds)
            problems["rounds left out: not a text, or after one that is not"] += left_out
            break
        given = entry.get("options")
        options = [_answer(text) for text in given] if isinstance(given, list) else []
        if not all(options):  # an index or relevance names them by their place
            problems["rounds whose options are not all texts"] += 1
            options = []
        index = entry.get("answer_index")
        known = type(index) is int and 0 <= index < len(options)
        answer = _answer(entry.get("answer"))
        rounds.append({
            **entry,
            "id": f"{record}#{number}",
            "question": question,
            "answer": answer or (options[index] if known else ""),
            "options": options,
            "answer_index": index if known else None,
            "relevance": _relevance(entry.get("relevance"), len(options)),
        })  # fmt: skip
    return rounds


def problems_of(fields: Mapping[str, Any]) -> Counter:
    """Returns how many questions, statements, answers and so on of a record are left out, by why.

    Args:
      fields: JSON values.
    """
    problems: Counter = Counter()
    for read in (_questions, _statements, _rounds):
        read(fields, "", problems)
    return problems


def _entries(
    fields: Mapping[str, Any], several: str, texts: Sequence[str], others: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Yields the objects that a record has of a task: those of a list, or its own.

    Args:
      several: the field with a list of objects.
      texts: names of an object's text; a record's own may be a list of texts.
      others: names of what is said of the text.
    """
    if isinstance(fields.get(several), list):
        yield from (entry if isinstance(entry, dict) else {} for entry in fields[several])
        return
    rest = {name: value for name, value in fields.items() if name != "merged"}
    merged = fields.get("merged")  # records of the same image: of each what differs from the first
    merged = [x for x in merged if isinstance(x, dict)] if isinstance(merged, list) else []
    for changes in ({}, *merged):
        if not changes or any(name in changes for name in (*texts, *others)):
            own = rest | changes
            name = next((name for name in texts if name in own), None)
            if name and isinstance(own[name], list):
                yield from _parted(own, name, others)
            elif name:
                yield own


def _parted(
    own: Mapping[str, Any], name: str, others: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Yields an object for each text of a list; each has its part of other lists of this length."""
    count = len(own[name])
    for number, text in enumerate(own[name]):
        parts = {name: text}
        for other in {*others, *IDS}.intersection(own):
            values = own[other]
            if isinstance(values, list) and len(values) == count:
                parts[other] = values[number]
            elif count > 1:  # it is not known to which it belongs
                parts[other] = None
        yield {**own, **parts}


def _text(value: Any) -> str:
    """Returns a text without the space around it; "" for what is none."""
    return value.strip() if isinstance(value, str) else ""


def _answer(value: Any) -> str:
    """Returns an answer as text: a number is one, a truth value and a missing value are not.

    VQA's annotations have an object with the answer for each annotator.
    """
    if isinstance(value, Mapping):
        value = value.get("answer")
    if is_number(value):
        return str(int(value) if value == int(value) else value)
    return _text(value)


def _id(entry: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns the first id that an object has, as text; "" if it has none."""
    found = (entry.get(name) for name in names)
    return next((str(x) for x in found if isinstance(x, str | int | float) and x != ""), "")


def _truth_value(value: Any) -> bool | None:
    """Returns what a label says: True, False, or their names in any case, as in NLVR2's files."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _relevance(values: Any, count: int) -> list[float] | None:
    """Returns the relevance of `count` options, or None if it is no such list."""
    if not isinstance(values, list) or not count or len(values) != count:
        return None
    return [float(x) for x in values] if all(is_number(x) and x >= 0 for x in values) else None


def dialog_caption(record: Mapping[str, Any]) -> str:
    """Returns the caption that a dialog begins with: the field "caption", or the first text."""
    caption = task_fields(record).get("caption")
    if isinstance(caption, str):
        return caption
    return next((to_text(text) for text in record.get("texts", ())), "")
