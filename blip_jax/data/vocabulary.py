"""The texts of datasets of all tasks, to train one vocabulary on.

A model keeps the vocabulary of its pre-training. Words that only a later task has must be in it
already, or they become pieces of words, or unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.fields import ANSWERS, STATEMENTS
from blip_jax.data.text import find_cleanup
from blip_jax.runtime.errors import UserError

# Names in the JSON of `fields`, at any depth, that hold a text or a list of texts.
VOCABULARY_FIELDS = ("question", *ANSWERS, "options", *STATEMENTS, "caption")


def training_texts(
    directories: Sequence[str], split: str = "train", cleanup: str = "blip"
) -> Iterator[str]:
    """Yields all texts of datasets, cleaned: captions, questions, answers, statements and dialogs.

    Args:
      directories: datasets, each the folder of a features.json.
      split: of each of them.
      cleanup: name of the clean-up, of `text.CLEANUPS`.

    Raises:
      UserError: a dataset cannot be read, or the `fields` of a record are not JSON.
    """
    for directory in directories:
        for record in open_dataset(directory, split):
            yield from record_texts(record, cleanup)


def record_texts(record: Mapping[str, Any], cleanup: str = "blip") -> Iterator[str]:
    """Yields the texts of a record: its `texts`, and those under VOCABULARY_FIELDS in its `fields`.

    An answer comes as often as annotators gave it.

    Raises:
      UserError: `fields` are not JSON.
    """
    clean = find_cleanup(cleanup)
    yield from (clean.caption(to_text(text)) for text in record.get("texts", ()))
    content = to_text(record.get("fields", b""))
    try:
        fields = json.loads(content) if content else {}
    except (ValueError, RecursionError) as error:
        key = to_text(record.get("key", ""))
        raise UserError(f"record {key}: fields is not JSON; make the dataset again") from error
    yield from map(clean.question, _texts(fields, False))


def _texts(value: Any, is_text: bool) -> Iterator[str]:
    """Yields the strings below fields that hold texts."""
    if isinstance(value, str) and is_text:
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, is_text)
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _texts(entry, name in VOCABULARY_FIELDS)
