"""Which values of a JSON file are numbers that can be computed with."""

import math
from typing import Any

MAX_DIGITS = 18  # of an id, so that it fits into an int64


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite int or float that a float can hold; no truth value is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def is_digits(text: str) -> bool:
    """Returns whether a text is a number of at most MAX_DIGITS digits, 0 to 9."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
