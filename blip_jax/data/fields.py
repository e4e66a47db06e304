"""What a record holds besides its image and texts, for tasks such as VQA: its field `fields`.

`fields` is the JSON of an object. `blip_jax/data/README.md` lists what tasks read of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


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
        name = f"{_text(record.get('key', ''))}#{number}" if key is None else str(key)
        questions.append({**entry, "id": name, "answers": answers if valid else []})
    return questions


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


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
        name = f"{_text(record.get('key', ''))}#{number}" if key is None else str(key)
        label = _truth_value(entry.get("label"))
        group = str(entry.get("group", text))
        statements.append({**entry, "id": name, "statement": text, "label": label, "group": group})
    return statements


def _truth_value(value: Any) -> bool | None:
    """Returns what a label says: True, False, or their names in any case, as in NLVR2's files."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int) else None
