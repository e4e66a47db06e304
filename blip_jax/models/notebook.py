"""Results as notebooks show them: a table with a picture in each row."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from blip_jax.data.images import ImageError
from blip_jax.data.pictures import embedded
from blip_jax.models.inputs import ImageLike, image_name, load_image
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.terminal import printable_lines

MAX_ROWS = 24  # rows that are shown; a notebook stores all that it shows
HEIGHT = 96  # pixels of a picture
CELL = "padding:4px 10px;text-align:left;vertical-align:middle"
# Of another colour than the page in light and dark notebooks; the stronger the higher the number.
SHADE = "background:rgba(60,130,240,{:.2f})"
STRUCK = "opacity:.6;text-decoration:line-through"


@dataclasses.dataclass(frozen=True, repr=False)
class Table:
    """What a notebook shows as a table; `print` gives its size.

    Attributes:
      columns: heading to a value for each row: a text, a number, None, or a sequence of these,
        which are shown as lines. Numbers in 0..1 are shaded, the higher the stronger.
      images: of each row, as `Model` takes them; empty: none. One that cannot be read is named.
      struck: for each row whether it is shown struck out, or a sequence with one value for each of
        its lines; empty: none is.

    Raises:
      UserError: columns, images and struck are not of the same number of rows.
    """

    columns: Mapping[str, Sequence[Any]]
    images: Sequence[ImageLike] = ()
    struck: Sequence[bool | Sequence[bool]] = ()

    def __post_init__(self):
        named = {**self.columns, "images": self.images, "struck": self.struck}
        sizes = {name: len(x) for name, x in named.items() if name in self.columns or len(x)}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise UserError(f"the rows of a table differ ({found}); give the same number of each")

    def __len__(self) -> int:
        return max((len(x) for x in (*self.columns.values(), self.images)), default=0)

    def __repr__(self) -> str:
        return f"Table({', '.join(self.columns)}: {len(self)} rows)"

    def _repr_html_(self) -> str:
        """Returns the first rows as HTML that needs no other file; all texts are escaped."""
        heads = [*([""] if len(self.images) else []), *self.columns]
        head = "".join(f'<th style="{CELL}">{_escaped(name)}</th>' for name in heads)
        rows = "".join(self._row(row) for row in range(min(len(self), MAX_ROWS)))
        more = f"<p>{MAX_ROWS} of {len(self):,} rows</p>" if len(self) > MAX_ROWS else ""
        return f'<table style="border-collapse:collapse"><tr>{head}</tr>{rows}</table>{more}'

    def _row(self, row: int) -> str:
        """Returns a row of the table: as many lines as its longest cell has."""
        cells = [_lines(values[row]) for values in self.columns.values()]
        count = max((len(cell) for cell in cells), default=1) or 1
        struck = _lines(self.struck[row]) if len(self.struck) else [False]
        lines = []
        for line in range(count):
            style = STRUCK if struck[min(line, len(struck) - 1)] else ""
            found = "".join(_cell(cell[line] if line < len(cell) else "", style) for cell in cells)
            if line == 0 and len(self.images):
                picture = _picture(self.images[row], row)
                found = f'<td rowspan="{count}" style="{CELL}">{picture}</td>{found}'
            lines.append(f"<tr>{found}</tr>")
        return "".join(lines)


class Results(list):
    """A list of results, which notebooks show with their images.

    Only the images that are shown are kept, as they were given.
    """

    def __init__(self, results: Sequence[Any], images: Sequence[ImageLike], **columns: Sequence):
        """Takes the results of the images in order.

        Args:
          columns: what is shown beside, such as the questions.
        """
        super().__init__(results)
        self._images = list(images[:MAX_ROWS])
        self._columns = {name: list(values[:MAX_ROWS]) for name, values in columns.items()}

    def _repr_html_(self) -> str | None:
        """Returns a table of the first results; None for lists that were changed since."""
        if len(self) < len(self._images):
            return None
        shown = self[:MAX_ROWS]
        rows = [list(row) if isinstance(row, (list, tuple)) else [row] for row in shown]
        names = {name: None for row in rows for x in row if x is not None for name in x.columns()}
        found = {
            name: [[None if x is None else x.columns()[name] for x in row] for row in rows]
            for name in names
        }
        more = f"<p>{MAX_ROWS} of {len(self):,} rows</p>" if len(self) > MAX_ROWS else ""
        return Table({**self._columns, **found}, self._images)._repr_html_() + more


def _lines(value: Any) -> list:
    if isinstance(value, np.ndarray):
        return list(np.atleast_1d(value))
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _cell(value: Any, style: str) -> str:
    text = "" if value is None else _escaped(value)
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        text = f"{value:.3g}" if not isinstance(value, int) else f"{value:,}"
        if not isinstance(value, int) and 0 < value <= 1:
            style = f"{style};{SHADE.format(0.6 * float(value))}".strip(";")
    return f'<td style="{";".join(filter(None, (CELL, style)))}">{text}</td>'


def _escaped(value: Any) -> str:
    return html.escape(printable_lines(str(value)), quote=True)


def _picture(image: ImageLike, row: int) -> str:
    name = _escaped(image_name(image, row))
    try:
        shown = embedded(load_image(image))
    except ImageError:  # a clip, an open file that was read to its end, a file that has gone
        return name
    rendering = ";image-rendering:pixelated" if shown["small"] else ""
    return (
        f'<img src="{shown["uri"]}" alt="{name}" height="{HEIGHT}" '
        f'style="max-width:none{rendering}">'
    )
