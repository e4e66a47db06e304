"""Reads the images and texts of a mixture as rows, which writers.py writes to files."""

import dataclasses
import hashlib
import io
import urllib.parse
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from blip_jax.capfilt import image_index, score_reader
from blip_jax.capfilt.export_plan import Piece, open_images
from blip_jax.capfilt.table import reduce_filters
from blip_jax.data.datasets import Dataset, to_text
from blip_jax.data.images import plain_jpeg_size
from blip_jax.data.mixture import Component, check_selected_texts
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


class RowReader:
    """Reads the rows of pieces; each component's dataset is opened once."""

    def __init__(self, with_images: bool):
        self._with_images = with_images
        self._sources: dict[str, Dataset] = {}  # by component

    def rows(self, piece: Piece) -> Iterator[Row]:
        """Yields the rows of a piece in order, without images that have no text.

        Raises:
          UserError: a file is damaged, or the scores or the selection are of another dataset.
        """
        component, texts = piece.component, list(piece.texts())
        if component.name not in self._sources:
            self._sources[component.name] = open_images(component, self._with_images)
        source, numbers = self._sources[component.name], np.array([row for row, _ in texts])
        # The index is of a whole split.
        is_slice = "[" in component.split
        index = None if is_slice else image_index.read(component.dataset, len(source), numbers)
        scored = _ScoredTexts(component, numbers) if component.scores else None
        for place, (number, indices) in enumerate(texts):
            about = {} if index is None else index.row(place)
            record = {}
            if self._with_images or scored is None or index is None:
                record = source[number]
            key = to_text(record["key"]) if record else about["key"]
            if scored is None:
                found = _own_texts(component, number, record["texts"], indices)
            else:
                found = scored.texts(place, key, indices)
            if not found:
                continue
            yield Row(
                component.name,
                number,
                key,
                to_text(record.get("url", b"")) or about.get("url") or "",
                record["image"] if self._with_images else None,
                found,
                {name: about[name] for name in ABOUT if about.get(name) not in (None, "")},
                {} if index is None else index.opt_out(place),
                [] if scored is None else scored.extra_scores(place),
            )


def _own_texts(
    component: Component, row: int, texts: Sequence[bytes], indices: list[int] | None
) -> list[dict]:
    """Returns texts of a component without scores; `indices` None: all."""
    indices = range(len(texts)) if indices is None else indices
    check_selected_texts(component, row, indices, len(texts))
    nothing = dict.fromkeys(NUMBERS)
    return [
        {"text": to_text(texts[i]), "origin": "web", "model": "", "method": "", **nothing}
        for i in indices
    ]


class _ScoredTexts:
    """The scored texts of some rows of a component, by their places among these.

    Args:
      rows: int [N], numbers of the rows.
    """

    def __init__(self, component: Component, rows: np.ndarray):
        self.component, self.rows = component, rows
        self.table = score_reader.read_rows(component.scores, component.split, rows.tolist())
        self.starts = np.searchsorted(self.table.row, np.arange(len(rows) + 1))
        self.cosine = reduce_filters(self.table, "cosine", "mean")

    def texts(self, place: int, key: str, indices: list[int] | None) -> list[dict]:
        """Returns the texts of a row. Raises a UserError if the scores are of another dataset."""
        table, component, row = self.table, self.component, int(self.rows[place])
        start, stop = self.starts[place : place + 2].tolist()
        if (found := table.key[place].as_py()) != key:
            raise UserError(
                f"component {component.name!r}: row {row} is {key!r} in the dataset and "
                f"{found!r} in its scores; score this dataset"
            )
        indices = range(stop - start) if indices is None else indices
        check_selected_texts(component, row, indices, stop - start)
        return [self._text(start + index) for index in indices]

    def extra_scores(self, place: int) -> list[dict]:
        """Returns the extra scores of an image."""
        if not self.table.extra_names:
            return []
        pairs = zip(self.table.extra_names, self.table.extra_scores[place], strict=True)
        return [{"name": name, "score": float32_number(score)} for name, score in pairs]

    def _text(self, i: int) -> dict:
        table = self.table
        found = {
            name: getattr(table, name)[i].as_py() for name in ("text", "origin", "model", "method")
        }
        found["p_match"] = float32_number(table.p_match[i].mean())
        found["cosine"] = float32_number(self.cosine[i])
        found["log_probability"] = float32_number(table.log_probability[i])
        if len(table.filters) > 1:
            names = table.filters
            scores = zip(names, table.p_match[i], table.cosine[i], strict=True)
            found["filters"] = [
                {"filter": name, "p_match": float32_number(p), "cosine": float32_number(c)}
                for name, p, c in scores
            ]
        return found
