"""What a record holds besides its image and texts, for tasks such as VQA: its field `fields`.

`fields` is the JSON of an object. `blip_jax/data/README.md` lists what tasks read of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from blip_jax.data.datasets import to_text
from blip_jax.runtime.numbers import is_number


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
    "answer". What is no such object is left out. "answers" is a list of texts, one of each
    annotator, [] if unknown; "id" is a text.
    """
    fields = task_fields(record)
    listed = fields.get("questions")
    own = [fields] if isinstance(fields.get("question"), str) else []
    questions = []
    for number, entry in enumerate(listed if isinstance(listed, list) else own):
        if not isinstance(entry, dict) or not isinstance(entry.get("question"), str):
            continue
        answers = entry.get("answers", entry.get("answer", []))
        answers = [answers] if isinstance(answers, str) else answers
        valid = isinstance(answers, list) and all(isinstance(x, str) for x in answers)
        key = entry.get("id", entry.get("question_id"))
        name = f"{to_text(record.get('key', ''))}#{number}" if key is None else str(key)
        questions.append({**entry, "id": name, "answers": answers if valid else []})
    return questions


def statements_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the statements about a record's two images, as {"id", "statement", "label", "group"}.

    They are the field "statements", a list, or the record's own "statement" (or "sentence") with
    "label". "label" is True, False, or None if unknown; "group" names the statements that
    consistency counts together, by default those of the same words.
    """
    fields = task_fields(record)
    listed = fields.get("statements")
    statements = []
    for number, entry in enumerate(listed if isinstance(listed, list) else [fields]):
        text = entry.get("statement", entry.get("sentence")) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            continue
        key = entry.get("id", entry.get("identifier"))
        name = f"{to_text(record.get('key', ''))}#{number}" if key is None else str(key)
        label = _truth_value(entry.get("label"))
        group = str(entry.get("group", text))
        statements.append({**entry, "id": name, "statement": text, "label": label, "group": group})
    return statements


def _truth_value(value: Any) -> bool | None:
    """Returns what a label says: True, False, or their names in any case, as in NLVR2's files."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int) else None


def rounds_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rounds of a record's dialog, in order, as {"id", "question", "answer", …}.

    They are the field "rounds", a list; what is no object with a question ends the dialog. The
    other keys of a round: "options", a list of texts, [] if there are none; "answer_index", place
    of the right option, None if unknown; "relevance", a number of 0 or more for each option, None
    if unknown. "id" is the record's key, "#" and the round's number, from 1.
    """
    listed = task_fields(record).get("rounds")
    rounds = []
    for number, entry in enumerate(listed if isinstance(listed, list) else [], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("question"), str):
            break  # the rounds after it would follow another history
        options, index = entry.get("options"), entry.get("answer_index")
        if not isinstance(options, list) or not all(isinstance(x, str) for x in options):
            options = []
        known = type(index) is int and 0 <= index < len(options)
        answer = entry.get("answer")
        rounds.append({
            **entry,
            "id": f"{to_text(record.get('key', ''))}#{number}",
            "answer": answer if isinstance(answer, str) else options[index] if known else "",
            "options": options,
            "answer_index": index if known else None,
            "relevance": _relevance(entry.get("relevance"), len(options)),
        })  # fmt: skip
    return rounds


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
