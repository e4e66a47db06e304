"""Clean-up of captions and questions, as the original does it.

Source: `pre_caption` and `pre_question` of salesforce/BLIP, data/utils.py.
"""

from __future__ import annotations

import re

_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_BLANKS = re.compile(r"\s{2,}")


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
