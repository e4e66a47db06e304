"""Clean-up of captions and questions: as the original does it, or for other languages.

`CLEANUPS` has them by name. A tokenizer has one (`Tokenizer.cleanup`), so that a model reads texts
as it was trained on them.

Source of "blip": `pre_caption` and `pre_question` of salesforce/BLIP, data/utils.py.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable

import regex  # Unicode's properties and grapheme clusters

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS = re.compile(r"\s{2,}")
# Scripts that are written without blanks between words.
_UNSPACED = "".join(
    rf"\p{{{name}}}" for name in "Han Hiragana Katakana Thai Lao Khmer Myanmar Tibetan".split()
)
# A grapheme of these, or a run of any others up to a blank. U+30FC, the mark of a long vowel, is
# of no script in Unicode's property, but part of Japanese words.
_UNITS = regex.compile(rf"(?=[{_UNSPACED}ー])\X|[^\s{_UNSPACED}ー]+")
_BEGINS_UNSPACED = regex.compile(rf"[{_UNSPACED}ー]")
_OTHER_SCRIPT = regex.compile(r"[^\p{Latin}\p{Common}\p{Inherited}]")
# What "blip" removes, in all scripts; question marks, commas and apostrophes stay there too.
_MARKS = regex.compile(
    r"[[\p{Sentence_Terminal}\p{Quotation_Mark}\p{Ps}\p{Pe}*#:;~〜•।॥]--[?؟՞;'’‘,]]", regex.V1
)
# Control characters, private and unassigned ones, and blanks without a width.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSEEN = regex.compile(r"[\p{Cc}\p{Cs}\p{Co}\p{Cn}\uFEFF\u200B\u2060]+")
UNITS_PER_WORD = 2  # graphemes of a script without blanks that count as one word of the limits


def clean_caption(text: str, max_words: int = 30) -> str:
    """Returns a caption in lower case, some punctuation replaced by spaces, cut to `max_words`.

    A run of spaces becomes one; a single tab or newline within the text is kept (the tokenizer
    treats it as a space). clean_caption('A dog: "Rex" (asleep).') is
    'a dog rex asleep'. May return ''.
    """
    text = _PUNCTUATION.sub(" ", text.lower())
    text = _BLANKS.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def clean_question(text: str, max_words: int = 50) -> str:
    """Returns a question in lower case, some punctuation *removed*, cut to `max_words`.

    Unlike in captions, spaces within the text are not changed. clean_question("Is it 3:00?")
    is "is it 300?".
    """
    text = _PUNCTUATION.sub("", text.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:max_words])


def unicode_caption(text: str, max_words: int = 30) -> str:
    """Returns a caption in NFKC with its case, punctuation as blanks, cut to `max_words`.

    It is for any language: two graphemes of a script without blanks between words (Chinese,
    Japanese, Thai …) count as one word. unicode_caption("「赤い」丸。ＡＢ") is "赤い 丸 AB". May
    return ''.
    """
    return _cut(" ".join(_MARKS.sub(" ", _normalize(text)).split()), max_words)


def unicode_question(text: str, max_words: int = 50) -> str:
    """Returns a question in NFKC with its case, punctuation *removed*, cut to `max_words`."""
    return _cut(" ".join(_MARKS.sub("", _normalize(text)).split()), max_words)


def _normalize(text: str) -> str:
    text = unicodedata.normalize("NFKC", _DIRECTION.sub("", text))
    return _UNSEEN.sub(" ", text)


def _cut(text: str, max_words: int) -> str:
    """Returns the text up to its `max_words`-th word, without breaking a grapheme or a word."""
    room = max_words * UNITS_PER_WORD
    for unit in _UNITS.finditer(text):
        room -= _size(unit[0])
        if room < 0:
            return text[: unit.start()].rstrip()
    return text


def _size(unit: str) -> int:
    return 1 if is_unspaced(unit) else UNITS_PER_WORD


def is_unspaced(text: str) -> bool:
    """Returns whether a text begins in a script without blanks between words, as Japanese."""
    return bool(_BEGINS_UNSPACED.match(text))


def split_units(text: str) -> list[str]:
    """Returns the words of a text; in scripts without blanks between words, its graphemes.

    split_units("a red 赤い丸") is ["a", "red", "赤", "い", "丸"].
    """
    if text.isascii() and text.isprintable():  # blanks alone divide it, and splitting is faster
        return text.split()
    return _UNITS.findall(text)


def has_other_scripts(text: str) -> bool:
    """Returns whether a text has letters of a script other than Latin."""
    return bool(_OTHER_SCRIPT.search(text))


@dataclasses.dataclass(frozen=True)
class Cleanup:
    """How texts are cleaned up before they are encoded.

    Attributes:
      name: in CLEANUPS.
      caption, question: functions of a text; of captions, statements and answers, and of questions.
    """

    name: str
    caption: Callable[[str], str]
    question: Callable[[str], str]


BLIP = Cleanup("blip", clean_caption, clean_question)
UNICODE = Cleanup("unicode", unicode_caption, unicode_question)
CLEANUPS = {x.name: x for x in (BLIP, UNICODE)}


def has_words(text: str) -> bool:
    """Returns whether all clean-ups leave something of a caption."""
    return all(x.caption(text) for x in CLEANUPS.values())


def find_cleanup(name: str) -> Cleanup:
    """Returns a clean-up by its name.

    Raises:
      UserError: there is none of this name.
    """
    if name not in CLEANUPS:
        raise UserError(f"there is no text clean-up {name!r:.80}; {hint(name, CLEANUPS)}")
    return CLEANUPS[name]


def is_unicode(text: str) -> bool:
    """Returns whether the text has no lone surrogates, so that it can be written as UTF-8."""
    return text.isascii() or not _SURROGATE.search(text)
