"""English texts of the Shapes dataset: statements about scenes as text, and back.

A text is either of

    PHRASE [and PHRASE]* [on a BACKGROUND background]
    BACKGROUND background with PHRASE [and PHRASE]*
    PHRASE = a|an|the [SIZE] COLOUR [TEXTURE] SHAPE [ROW COLUMN]

Every word belongs to exactly one kind, so a text has at most one meaning. `parse_text` is strict: a
text with an unknown word, a word out of place or "a" before a vowel has none. Each concept has
several words; the first is the most frequent, as in real captions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

SHAPES = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop", "donut"),
    "diamond": ("diamond", "rhombus", "kite"),
}
COLOURS = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald", "leafy"),
    "blue": ("blue", "navy", "cobalt"),
    "yellow": ("yellow", "golden", "lemon"),
    "purple": ("purple", "violet", "plum"),
    "orange": ("orange", "amber", "tangerine"),
    "pink": ("pink", "rosy", "blush"),
    "cyan": ("cyan", "turquoise", "aqua"),
}
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
TEXTURES = {"plain": ("plain", "solid"), "striped": ("striped", "lined")}
BACKGROUNDS = {
    "black": ("black", "dark"),
    "gray": ("gray", "grey"),
    "brown": ("brown", "chocolate"),
    "maroon": ("maroon", "burgundy"),
}
ROWS = {"top": ("top", "upper"), "middle": ("middle",), "bottom": ("bottom", "lower")}
COLUMNS = {"left": ("left",), "centre": ("centre", "center"), "right": ("right",)}
FIELDS = {
    "size": SIZES,
    "colour": COLOURS,
    "texture": TEXTURES,
    "shape": SHAPES,
    "row": ROWS,
    "column": COLUMNS,
}
BOILERPLATE = (
    "click here to buy now",
    "click here for more",
    "stock photo",
    "stock photo free download",
    "royalty free stock image",
    "best price free shipping",
    "buy now free shipping",
    "image may contain text",
    "shop now best price",
    "download free image here",
    "home page photo gallery",
    "view more in the gallery",
)
BACKGROUND_NOUNS = ("background", "backdrop")
PREPOSITIONS = ("on", "over", "against")
COMMON_WORD_PROBABILITY = 0.6  # probability of a concept's first word


@dataclasses.dataclass(frozen=True)
class Phrase:
    """What a text says about one object; '' where it says nothing. Concepts, not words."""

    shape: str
    colour: str
    size: str = ""
    texture: str = ""
    row: str = ""
    column: str = ""

    def num_claims(self) -> int:
        """Returns the number of claims (a position is one)."""
        given = (self.shape, self.colour, self.size, self.texture, self.row)
        return sum(bool(value) for value in given)


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a text says about a scene: one phrase an object it names, and the background or ''."""

    phrases: tuple[Phrase, ...]
    background: str = ""

    def num_claims(self) -> int:
        """Returns the number of claims in all."""
        return sum(phrase.num_claims() for phrase in self.phrases) + bool(self.background)


def _invert(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: concept for concept, words in table.items() for word in words}


_CONCEPT = {field: _invert(table) for field, table in FIELDS.items()}
_BACKGROUND = _invert(BACKGROUNDS)


def vocabulary() -> list[str]:
    """Returns all words of true texts, sorted."""
    words = {"a", "an", "the", "and", "with", *BACKGROUND_NOUNS, *PREPOSITIONS, *_BACKGROUND}
    return sorted(words.union(*_CONCEPT.values()))


def draw_word(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """Returns a word of a concept: the first with COMMON_WORD_PROBABILITY, else one of the rest."""
    if len(words) == 1 or rng.random() < COMMON_WORD_PROBABILITY:
        return words[0]
    return words[int(rng.integers(1, len(words)))]


def indefinite_article(word: str) -> str:
    """Returns "a" or "an", as the word needs."""
    return "an" if word[0] in "aeiou" else "a"


def _render_phrase(phrase: Phrase, rng: np.random.Generator) -> str:
    words = []
    for field, table in FIELDS.items():
        concept = getattr(phrase, field)
        if concept:
            words.append(draw_word(table[concept], rng))
    article = "the" if rng.random() < 0.1 else indefinite_article(words[0])
    return " ".join([article, *words])


def render_text(statement: Statement, rng: np.random.Generator) -> str:
    """Returns the statement as one lower-case text, words drawn by `rng`.

    `parse_text` is the inverse. render_text(Statement((Phrase("ring", "red"),)), rng) may be
    "a red ring" or "the scarlet hoop".
    """
    text = " and ".join(_render_phrase(phrase, rng) for phrase in statement.phrases)
    if not statement.background:
        return text
    colour = draw_word(BACKGROUNDS[statement.background], rng)
    ground = draw_word(BACKGROUND_NOUNS, rng)
    if rng.random() < 0.3:
        return f"{colour} {ground} with {text}"
    return f"{text} {draw_word(PREPOSITIONS, rng)} {indefinite_article(colour)} {colour} {ground}"


def parse_text(text: str) -> Statement | None:
    """Returns what the text says; None if it is not a text of the grammar.

    Args:
      text: any string, for instance a model's output. Case and extra spaces do not matter.
    """
    words = text.lower().split()
    background = ""
    if len(words) > 3 and words[0] in _BACKGROUND:
        if words[1] not in BACKGROUND_NOUNS or words[2] != "with":
            return None
        background, words = _BACKGROUND[words[0]], words[3:]
    elif len(words) > 4 and words[-4] in PREPOSITIONS:
        article, colour, ground = words[-3:]
        if (
            colour not in _BACKGROUND
            or ground not in BACKGROUND_NOUNS
            or article != indefinite_article(colour)
        ):
            return None
        background, words = _BACKGROUND[colour], words[:-4]
    phrases = [_parse_phrase(part.split()) for part in " ".join(words).split(" and ")]
    if None in phrases:
        return None
    return Statement(tuple(phrases), background)


def _parse_phrase(words: list[str]) -> Phrase | None:
    if len(words) < 3 or words[0] not in ("the", indefinite_article(words[1])):
        return None
    rest = words[1:]
    found = {}
    for field, concepts in _CONCEPT.items():
        if rest and rest[0] in concepts:
            found[field] = concepts[rest.pop(0)]
    complete = "shape" in found and "colour" in found and ("row" in found) == ("column" in found)
    return Phrase(**found) if complete and not rest else None
