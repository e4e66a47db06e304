"""Rows of numbers as a plain-text table for the terminal or as Markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np
from tabulate import tabulate

from blip_jax.runtime.terminal import printable

Rows = Sequence[Mapping[str, object]]


def plain(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """Returns an aligned table for the terminal; numbers to the right.

    Args:
      rows: dicts; a missing key leaves the cell empty.
      columns: keys in order; default: `columns_of(rows)`.

    Returns:
      Lines without a trailing newline; '' for no columns.
    """
    return _render(rows, columns, "simple")


def markdown(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """Returns the table in GitHub-flavoured Markdown; `|` inside a text is escaped."""
    return _render(rows, columns, "pipe")


def columns_of(rows: Rows) -> list[str]:
    """Returns every key of any row, in the order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def spread(values: Sequence[float]) -> float | tuple[float, float]:
    """Returns the mean and the standard deviation of several values, or a single value itself."""
    if len(values) == 1:
        return values[0]
    return float(np.mean(values)), float(np.std(values, ddof=1))


def heading(name: str) -> str:
    """Returns a key as the heading of its column: "mean_p_match" as "mean P(match)"."""
    return str(name).replace("p_match", "P(match)").replace("_", " ")


def format_column(values: Sequence[object]) -> list[str]:
    """Returns the cells of one column; its numbers have equally many decimals.

    Shares (all within -1..1) get three decimals, others one. A pair (mean, spread) is written with
    a plus-minus sign, nan as a dash, None as nothing.
    """
    numbers = [n for value in values for n in _numbers(value) if math.isfinite(n)]
    digits = 3 if numbers and max(map(abs, numbers)) <= 1 else 1
    return [_cell(value, digits) for value in values]


def is_numeric(values: Sequence[object]) -> bool:
    """Returns whether a column has a number and, except for None, nothing else."""
    present = [value for value in values if value is not None]
    return bool(present) and all(_numbers(value) or _is_int(value) for value in present)


def _render(rows: Rows, columns: Sequence[str] | None, style: str) -> str:
    columns = columns_of(rows) if columns is None else list(columns)
    if not columns:
        return ""
    values = [[row.get(name) for row in rows] for name in columns]
    cells = [format_column(column) for column in values]
    align = ["right" if is_numeric(column) else "left" for column in values]
    headers = [heading(name) for name in columns]
    lines = [list(line) for line in zip(*cells, strict=True)]
    if style == "pipe":
        headers = [_escape(name) for name in headers]
        lines = [[_escape(cell) for cell in line] for line in lines]
    # Without rows tabulate rejects `colalign`, and headers alone need none.
    keywords = {"colalign": align} if lines else {}
    return tabulate(lines, headers, tablefmt=style, disable_numparse=True, **keywords)


def _cell(value: object, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if _is_int(value):
        return f"{value:,}"
    numbers = _numbers(value)
    if not numbers:
        return printable(str(value))
    if len(numbers) == 1:
        return _number(numbers[0], digits)
    return " ± ".join("–" if math.isnan(n) else f"{n:,.{digits}f}" for n in numbers)


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "–"
    small = 0 < abs(value) < 0.5 * 10**-digits
    return f"{value:.1e}" if small else f"{value:,.{digits}f}"


def _numbers(value: object) -> tuple[float, ...]:
    """Returns the floats of a number or of a (mean, spread) pair; () for others and for ints."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return (float(value),)
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    if is_pair and all(isinstance(part, Real) for part in value):
        return tuple(float(part) for part in value)
    return ()


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _escape(text: str) -> str:
    return markdown_text(text).replace("|", r"\|")


def markdown_text(text: str) -> str:
    """Returns a text on one line as Markdown that shows it as it is: no HTML, links or emphasis."""
    text = re.sub(r"[\\`*\[\]]", r"\\\g<0>", printable(" ".join(text.split("\n"))))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_code(text: str) -> str:
    """Returns a text on one line as a code span of Markdown, whatever backticks it has."""
    text = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
