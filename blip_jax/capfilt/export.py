"""What a mixture names, image by image: for other programs to read.

`rows` gives it as a stream; writers.py turns that into files.
"""

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from blip_jax.capfilt import image_index as known
from blip_jax.capfilt import storage
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.mixture import Component, load_selected
from blip_jax.runtime.errors import UserError

# Suffixes of PIL's formats that are not called like the format.
SUFFIXES = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2"}
ABOUT = ("source", "license", "sha256", "width", "height")  # of the index, for each row
NUMBERS = ("p_match", "cosine", "log_probability")


@dataclasses.dataclass(frozen=True)
class Row:
    """An image and the texts that a mixture has for it.

    Attributes:
      component: name of the component of the mixture.
      key, url: of the image; the URL may be "".
      image: the bytes; None where they were not asked for.
      texts: [{'text', 'origin', 'model', 'method', 'p_match', 'cosine', 'log_probability'}]; of
        several filters the means, and 'p_match NAME' of each. None where nothing was scored.
      about: what else is known of the image (ABOUT).
    """

    component: str
    key: str
    url: str
    image: bytes | None
    texts: list[dict]
    about: dict

    @property
    def name(self) -> str:
        """The key as part of a file's name, and of no other row's of its component."""
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", self.key)[:80]
        if safe and safe == self.key:
            return safe
        return f"{safe}-{hashlib.sha256(self.key.encode()).hexdigest()[:12]}"

    @property
    def suffix(self) -> str:
        """What files of this kind of image end in; "" if it is none."""
        try:
            kind = Image.open(io.BytesIO(self.image)).format.lower()
        except Exception:  # PIL raises nearly anything on damaged files
            return ""
        return SUFFIXES.get(kind, kind)

    @property
    def caption(self) -> str:
        """The text of the highest P(match); the first, if none is scored."""
        best = max(self.texts, key=lambda text: text["p_match"] or 0.0)
        return best["text"]


def count(components: list[Component]) -> int:
    """How many images have texts in these components, at most."""
    total = 0
    for component in components:
        images = len(open_dataset(component.dataset, component.split))
        if component.selected is not None:
            images = len(np.unique(load_selected(component, images)[:, 0]))
        total += images
    return total


def rows(components: list[Component], with_images: bool) -> Iterator[Row]:
    """The components' rows in the order of their datasets, without images that have no text.

    Raises:
      UserError: a dataset, its scores or its selection is missing, or do not belong together.
    """
    for component in components:
        yield from _rows(component, with_images)


def _rows(component: Component, with_images: bool) -> Iterator[Row]:
    source = open_dataset(component.dataset, component.split)
    index = known.read(component.dataset, len(source))
    stored = _Stored(component, len(source)) if component.scores else None
    selected = None if component.selected is None else load_selected(component, len(source))
    for row, places in _places(selected, len(source)):
        about = {} if index is None else index.row(row)
        record = {}
        if with_images or stored is None or index is None:
            record = source[row]
        key = to_text(record["key"]) if record else about["key"]
        if stored is None:
            own = [to_text(text) for text in record["texts"]]
            texts = [_unscored(own[i]) for i in (range(len(own)) if places is None else places)]
        else:
            texts = stored.texts(row, key, places)
        if not texts:
            continue
        yield Row(
            component.name,
            key,
            to_text(record.get("url", b"")) or about.get("url") or "",
            record["image"] if with_images else None,
            texts,
            {name: about[name] for name in ABOUT if about.get(name) not in (None, "")},
        )


def _places(selected: np.ndarray | None, rows: int) -> Iterator[tuple[int, list[int] | None]]:
    """Each row with the places of its texts; None for all of them."""
    if selected is None:
        yield from ((row, None) for row in range(rows))
        return
    selected = np.unique(selected, axis=0)
    numbers, starts = np.unique(selected[:, 0], return_index=True)
    for number, places in zip(numbers.tolist(), np.split(selected[:, 1], starts[1:])):
        yield number, places.tolist()


def _unscored(text: str) -> dict:
    nothing = dict.fromkeys(NUMBERS)
    return {"text": text, "origin": "web", "model": "", "method": "", **nothing}


class _Stored:
    """The scored texts of a component, by row."""

    def __init__(self, component: Component, rows: int):
        self.component = component
        self.table = storage.read(component.scores, component.split)
        if len(self.table.key) != rows:
            raise UserError(
                f"component {component.name!r}: scores {component.scores} have "
                f"{len(self.table.key)} rows, dataset {component.dataset} has {rows}; "
                "score this very dataset"
            )
        self.starts = np.searchsorted(self.table.row, np.arange(rows + 1))

    def texts(self, row: int, key: str, places: list[int] | None) -> list[dict]:
        """Raises a UserError if the row is another image's, or lacks a text."""
        table, component = self.table, self.component
        start, stop = self.starts[row : row + 2].tolist()
        if (found := table.key[row].as_py()) != key:
            raise UserError(
                f"component {component.name!r}: row {row} is {key!r} in the dataset and "
                f"{found!r} in its scores; score this very dataset"
            )
        places = range(stop - start) if places is None else places
        if places and not 0 <= min(places) <= max(places) < stop - start:
            raise UserError(
                f"component {component.name!r}: {component.selected} selects text {max(places)} "
                f"of row {row}, which has {stop - start}"
            )
        return [self._text(start + place) for place in places]

    def _text(self, place: int) -> dict:
        table = self.table
        found = {
            name: getattr(table, name)[place].as_py()
            for name in ("text", "origin", "model", "method")
        }
        found["p_match"] = _number(table.p_match[place].mean())
        found["cosine"] = _number(table.cosine[place].mean())
        found["log_probability"] = _number(table.log_probability[place])
        if len(table.filters) > 1:
            found["filters"] = [
                {"filter": name, "p_match": _number(p_match), "cosine": _number(cosine)}
                for name, p_match, cosine in zip(
                    table.filters, table.p_match[place], table.cosine[place], strict=True
                )
            ]
        return found


def _number(value: np.floating) -> float | None:
    """In as many digits as a float32 has; None for NaN, which JSON has no word for."""
    return float(f"{value:.7g}") if np.isfinite(value) else None
