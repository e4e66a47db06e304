"""Reads the images and texts of a mixture as rows, which writers.py writes to files."""

import dataclasses
import hashlib
import io
import urllib.parse
from collections.abc import Iterator

import numpy as np
from PIL import Image

from blip_jax.capfilt import image_index, storage
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.images import plain_jpeg_size
from blip_jax.data.mixture import Component, check_selected_texts, load_selected
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import float32_number

# File suffixes of PIL's formats whose name is not the suffix.
SUFFIXES = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2"}
ABOUT = ("source", "license", "sha256", "phash", "width", "height")  # columns of the index
MAX_NAME = 96  # characters of `file_name`
NUMBERS = ("p_match", "cosine", "log_probability")


def file_name(text: str) -> str:
    """Returns a text as part of a file name: different texts give different names.

    All but ASCII letters, digits, "_" and "-" is percent-encoded, as in "a%20b", so that
    `urllib.parse.unquote` gives the text back. Of "" and of long texts the name ends in "~" and
    their SHA-256.
    """
    name = urllib.parse.quote(text.encode("utf-8", "surrogatepass"), safe="")
    name = name.replace(".", "%2E").replace("~", "%7E")
    if 0 < len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[: MAX_NAME - 33]}~{digest[:32]}"


@dataclasses.dataclass(frozen=True)
class Row:
    """An image and its texts in a mixture.

    Attributes:
      component: name of the component of the mixture.
      number: of the image's row in the component's dataset.
      key, url: of the image; the URL may be "".
      image: the bytes; None if not requested.
      texts: [{'text', 'origin', 'model', 'method', 'p_match', 'cosine', 'log_probability'}]; of
        several filters the means, and 'filters' with the scores of each. None if not scored.
      about: other fields of the image (ABOUT).
      opt_out: opt-out fields of the image, as they were given.
      extra_scores: [{'name', 'score'}], of plug-ins.
    """

    component: str
    number: int
    key: str
    url: str
    image: bytes | None
    texts: list[dict]
    about: dict
    opt_out: dict[str, str]
    extra_scores: list[dict]

    @property
    def name(self) -> str:
        """Returns the key as a file name; see `file_name`."""
        return file_name(self.key)

    @property
    def suffix(self) -> str:
        """Returns the file suffix of the image's format; "" if the bytes are not an image."""
        if plain_jpeg_size(self.image):
            return SUFFIXES["jpeg"]
        try:
            kind = Image.open(io.BytesIO(self.image)).format.lower()
        except Exception:  # PIL raises many types of errors on damaged files
            return ""
        return SUFFIXES.get(kind, kind)

    @property
    def caption(self) -> str:
        """Returns the text with the highest P(match); the first text if none is scored."""
        best = max(self.texts, key=lambda text: text["p_match"] or 0.0)
        return best["text"]


def count(components: list[Component]) -> int:
    """Returns an upper bound of the number of images with texts in the components."""
    total = 0
    for component in components:
        images = len(open_dataset(component.dataset, component.split))
        if component.selected is not None:
            images = len(np.unique(load_selected(component, images)[:, 0]))
        total += images
    return total


def opt_out_names(components: list[Component]) -> list[str]:
    """Returns the names of the opt-out fields that images of the components have."""
    names: set[str] = set()
    for dataset, split in {(x.dataset, x.split) for x in components if "[" not in x.split}:
        index = image_index.read(dataset, len(open_dataset(dataset, split)))
        names.update(index.opt_out_names() if index else ())
    return sorted(names)


def rows(components: list[Component], with_images: bool, workers: int = 1) -> Iterator[Row]:
    """Yields the rows of the components in order, without images that have no text.

    Args:
      workers: processes that read scores; see `score_reader.read`.

    Raises:
      UserError: a dataset, its scores or its selection is missing, or they do not match.
    """
    for component in components:
        yield from _rows(component, with_images, workers)


def _rows(component: Component, with_images: bool, workers: int) -> Iterator[Row]:
    needed = ["key", *["image"] * with_images, *["texts"] * (not component.scores)]
    source = open_dataset(component.dataset, component.split, needed)
    # The index is of a whole split.
    index = None if "[" in component.split else image_index.read(component.dataset, len(source))
    stored = _Stored(component, len(source), workers) if component.scores else None
    selected = None if component.selected is None else load_selected(component, len(source))
    for row, indices in _selected_texts(selected, len(source)):
        about = {} if index is None else index.row(row)
        record = {}
        if with_images or stored is None or index is None:
            record = source[row]
        key = to_text(record["key"]) if record else about["key"]
        if stored is None:
            own = [to_text(text) for text in record["texts"]]
            indices = range(len(own)) if indices is None else indices
            check_selected_texts(component, row, indices, len(own))
            texts = [_unscored(own[i]) for i in indices]
        else:
            texts = stored.texts(row, key, indices)
        if not texts:
            continue
        yield Row(
            component.name,
            row,
            key,
            to_text(record.get("url", b"")) or about.get("url") or "",
            record["image"] if with_images else None,
            texts,
            {name: about[name] for name in ABOUT if about.get(name) not in (None, "")},
            {} if index is None else index.opt_out(row),
            [] if stored is None else stored.extra_scores(row),
        )


def _selected_texts(
    selected: np.ndarray | None, rows: int
) -> Iterator[tuple[int, list[int] | None]]:
    """Yields each row with the indices of its selected texts; None: all."""
    if selected is None:
        yield from ((row, None) for row in range(rows))
        return
    selected = np.unique(selected, axis=0)
    numbers, starts = np.unique(selected[:, 0], return_index=True)
    for number, indices in zip(numbers.tolist(), np.split(selected[:, 1], starts[1:])):
        yield number, indices.tolist()


def _unscored(text: str) -> dict:
    nothing = dict.fromkeys(NUMBERS)
    return {"text": text, "origin": "web", "model": "", "method": "", **nothing}


class _Stored:
    """The scored texts of a component by row."""

    def __init__(self, component: Component, rows: int, workers: int):
        self.component = component
        self.table = storage.read(component.scores, component.split, workers)
        if len(self.table.key) != rows:
            raise UserError(
                f"component {component.name!r}: scores {component.scores} have "
                f"{len(self.table.key)} rows, dataset {component.dataset} has {rows}; "
                "score this dataset"
            )
        self.starts = np.searchsorted(self.table.row, np.arange(rows + 1))

    def texts(self, row: int, key: str, indices: list[int] | None) -> list[dict]:
        """Returns the texts of a row. Raises a UserError if the scores are of another dataset."""
        table, component = self.table, self.component
        start, stop = self.starts[row : row + 2].tolist()
        if (found := table.key[row].as_py()) != key:
            raise UserError(
                f"component {component.name!r}: row {row} is {key!r} in the dataset and "
                f"{found!r} in its scores; score this dataset"
            )
        indices = range(stop - start) if indices is None else indices
        check_selected_texts(component, row, indices, stop - start)
        return [self._text(start + index) for index in indices]

    def extra_scores(self, row: int) -> list[dict]:
        """Returns the extra scores of an image."""
        if not self.table.extra_names:
            return []
        pairs = zip(self.table.extra_names, self.table.extra_scores[row], strict=True)
        return [{"name": name, "score": float32_number(score)} for name, score in pairs]

    def _text(self, i: int) -> dict:
        table = self.table
        found = {
            name: getattr(table, name)[i].as_py() for name in ("text", "origin", "model", "method")
        }
        found["p_match"] = float32_number(table.p_match[i].mean())
        found["cosine"] = float32_number(table.mean_cosine(i))
        found["log_probability"] = float32_number(table.log_probability[i])
        if len(table.filters) > 1:
            names = table.filters
            scores = zip(names, table.p_match[i], table.cosine[i], strict=True)
            found["filters"] = [
                {"filter": name, "p_match": float32_number(p), "cosine": float32_number(c)}
                for name, p, c in scores
            ]
        return found
