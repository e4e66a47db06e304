"""The languages of the Shapes dataset by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from blip_jax.data.synthetic import grammar, japanese
from blip_jax.data.synthetic.grammar import Statement
from blip_jax.data.text import BLIP, UNICODE, Cleanup


@dataclasses.dataclass(frozen=True)
class Language:
    """How statements about scenes are said.

    Attributes:
      name: in LANGUAGES, and in records of other languages than English.
      render: of a statement and a generator to a text.
      parse: of any text to what it says; None of a text that is not of the grammar.
      boilerplate: web texts that describe no image.
      cleanup: the clean-up that leaves `parse` what `render` wrote.
    """

    name: str
    render: Callable[[Statement, np.random.Generator], str]
    parse: Callable[[str], Statement | None]
    boilerplate: tuple[str, ...]
    cleanup: Cleanup


ENGLISH = Language("english", grammar.render_text, grammar.parse_text, grammar.BOILERPLATE, BLIP)
JAPANESE = Language(
    "japanese", japanese.render_text, japanese.parse_text, japanese.BOILERPLATE, UNICODE
)
LANGUAGES = {language.name: language for language in (ENGLISH, JAPANESE)}
