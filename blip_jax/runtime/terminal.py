"""Text from data, made safe to print: it cannot steer a terminal or begin a line of its own."""

import unicodedata

# Control characters, format characters such as those that reverse the direction of text, halves of
# surrogate pairs, and separators of lines and paragraphs.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    r"""Returns `text` with control characters as escapes: a line end as `\n`, ESC as `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSAFE else c
        for c in text
    )
