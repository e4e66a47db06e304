"""Text and JSON as found in files: byte order marks, other encodings, numbers without end."""

from __future__ import annotations

import ast
import codecs
import json
import math
import re
from decimal import Decimal
from typing import Any

from blip_jax.runtime.errors import UserError

UTF8_BOM = codecs.BOM_UTF8
OTHER_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # those of UTF-32 start or hold NULs too
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it starts
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# A text or a missing value in the notation of a list of texts.
_ENTRY = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|nan|NaN|None|null)"""
_ENTRIES = re.compile(rf"\[\s*(?:{_ENTRY}(?:\s*,\s*|\s+|(?=\])))+\]")
MAX_LEVELS = 100  # of lists and objects in a field
DECODER = json.JSONDecoder(strict=False)
# Python refuses to convert integers of more than 4,300 digits; they are kept as text.
LENIENT_DECODER = json.JSONDecoder(strict=False, parse_int=lambda digits: _integer(digits))


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 1000 else digits


def decode_text(data: bytes) -> str:
    """Returns bytes as text, by their byte order mark, else UTF-8.

    What is not of that encoding becomes lone surrogates.
    """
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
            try:
                return data[len(mark) :].decode(encoding, errors)
            except UnicodeDecodeError:  # an odd number of bytes
                break
    return data.decode("utf-8", "surrogateescape")


def parse_json(data: bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
      ValueError, RecursionError: it is not JSON, or nested too deeply.
    """
    text = decode_text(data)
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer without end
        return LENIENT_DECODER.decode(text)


def text_lines(text: str) -> list[str]:
    """Returns the lines of a text; unlike str.splitlines, only line ends part them."""
    return re.split(r"\r\n|\r|\n", text)


def check_utf8(head: bytes, path: str) -> None:
    """Raises a UserError if the first bytes of a list or table are of another encoding."""
    if head.startswith(OTHER_BOMS) or b"\0" in head:
        kind = "UTF-16" if head.startswith(OTHER_BOMS) else "not UTF-8 (it has NUL bytes)"
        raise UserError(f"{path} is {kind}; save it as UTF-8")


def listed(value: Any) -> Any:
    """Returns the list of which a text is the notation (JSON, Python, NumPy), else the value.

    So a CSV table has lists, and pandas writes them.
    """
    if not isinstance(value, str) or not value.startswith("[") or not value.endswith("]"):
        return value
    try:
        if _ENTRIES.fullmatch(value):  # NumPy's have no commas: Python would join their texts
            found = re.findall(_ENTRY, value)
            return [ast.literal_eval(x) if x[0] in "'\"" else None for x in found]
        return json.loads(value)
    except (ValueError, SyntaxError, RecursionError):
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def is_missing(value: Any) -> bool:
    """Returns whether a field has no value: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def plain(value: Any, levels: int = MAX_LEVELS) -> Any:
    """Returns a value as JSON; of bytes only their number.

    Raises:
      ValueError: lists and objects are nested more than `levels` deep. How deep Python could read
        and write them depends on its version.
    """
    if type(value) is str or type(value) is int:  # most are
        return value
    if isinstance(value, dict | list | tuple):
        if not levels:
            raise ValueError(f"it is nested more than {MAX_LEVELS} levels deep")
        if isinstance(value, dict):
            return {str(name): plain(item, levels - 1) for name, item in value.items()}
        return [plain(item, levels - 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value if isinstance(value, str | int | float | bool | None) else str(value)
