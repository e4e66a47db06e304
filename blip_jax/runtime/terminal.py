"""Text for a terminal or a log: names of files may hold characters that steer a terminal."""

import re
import sys

# Controls (C0, DEL, C1), line and paragraph separators, marks that turn the writing direction, and
# halves of surrogate pairs, which cannot be printed.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f]")


def printable(text: str) -> str:
    r"""Returns the text on one line, with escapes as `\x1b` for control characters."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """Returns the text as `printable`, but with its line ends and tabs."""
    return "".join(x if x in "\n\t" else printable(x) for x in re.split(r"([\n\t])", text))


def page_text(text: str) -> str:
    """Returns the text as `printable_lines`, for HTML: marks of direction are left out.

    Texts in Arabic or Hebrew have them for places where other scripts follow; in a page each text
    has a direction of its own.
    """
    return printable_lines(_DIRECTION_MARKS.sub("", text))


def print_note(text: str) -> None:
    """Prints `printable` text as a line on stderr: for names and texts that come from data."""
    print(printable(text), file=sys.stderr)


def json_escaped(text: str) -> str:
    r"""Returns JSON with escapes as `\u009b` for control characters in its strings."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
