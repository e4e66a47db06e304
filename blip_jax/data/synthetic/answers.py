"""Answers of the Shapes dataset: concepts as words, and back.

An answer is a concept of the grammar ("red", "square", "small", "black"), a place ("top left"), a
number ("none", "one" …), "yes" or "no", or the colour and shape of an object ("red square").
"""

from __future__ import annotations

import numpy as np

from blip_jax.data.synthetic import grammar

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
YES_NO = ("yes", "no")
# A concept's words, of which the first is the most frequent. No concept belongs to two tables.
WORDS: dict[str, tuple[str, ...]] = {
    concept: words
    for table in (*grammar.FIELDS.values(), grammar.BACKGROUNDS)
    for concept, words in table.items()
} | {word: (word,) for word in (*NUMBERS, *YES_NO)}
CONCEPTS = {word: concept for concept, words in WORDS.items() for word in words}


def render_answer(concepts: str, rng: np.random.Generator) -> str:
    """Returns an answer in words: "upper left" of "top left", a word drawn for each concept."""
    return " ".join(grammar.draw_word(WORDS[concept], rng) for concept in concepts.split())


def parse_answer(text: str) -> str:
    """Returns the concepts of an answer: "top left" of "upper left"; "" of unknown words.

    A leading article is dropped. Case and extra spaces do not matter.
    """
    words = text.lower().split()
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return " ".join(CONCEPTS[x] for x in words) if all(x in CONCEPTS for x in words) else ""
