"""Mixtures: JSON files that list datasets, or selections from them, with weights.

Training reads a mixture; see `load_mixture`.
"""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
from etils import epath

from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import absolute_path


@dataclasses.dataclass(frozen=True)
class Component:
    """One part of a mixture.

    Attributes:
      name: for messages and reports.
      dataset: directory of the images and their texts.
      split: split of it.
      weight: its share of all batches is weight / the sum of weights; 0 leaves it out.
      scores: directory of a CapFilt dataset, whose row i describes row i of `dataset`; then the
        texts are taken from there.
      pairs: .npy file, int32 [P, 2], of (row, index of the row's text) to train on, whatever
        their order; None takes every row, with one of its texts drawn at each visit.
    """

    name: str
    dataset: str
    split: str = "train"
    weight: float = 1.0
    scores: str | None = None
    pairs: str | None = None


def load_mixture(path: str) -> list[Component]:
    """Returns the parts of a mixture file, paths made absolute.

    Args:
      path: JSON, {"parts": [{"name", "dataset", "split", "weight", "scores", "pairs"}, …]}; only
        name and dataset must be given. Paths in it may be relative to the file itself.

    Raises:
      UserError: the file is missing, is not such JSON, or has an unknown or wrong field.
    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"mixture file {path} does not exist")
    try:
        entries = json.loads(file.read_text())["parts"]
        parts = [Component(**entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"mixture file {path} is not a mixture: {error}") from error
    _check(parts, path)

    def absolute(entry: str | None) -> str | None:
        return None if entry is None else absolute_path(entry, file.parent)

    return [
        dataclasses.replace(
            part,
            dataset=absolute(part.dataset),
            scores=absolute(part.scores),
            pairs=absolute(part.pairs),
        )
        for part in parts
    ]


def _check(parts: list[Component], path: str) -> None:
    for part in parts:
        good = isinstance(part.weight, int | float) and math.isfinite(part.weight)
        if not good or part.weight < 0:
            message = f"weight of part {part.name!r} is {part.weight!r}; it must be 0 or more"
            raise UserError(f"mixture file {path}: {message}")
    if not any(part.weight for part in parts):
        raise UserError(f"mixture file {path} has no part with a weight above 0")


def save_mixture(path: str, parts: list[Component]) -> None:
    """Writes a mixture file, paths as they stand in the parts."""
    content = {"parts": [dataclasses.asdict(part) for part in parts]}
    epath.Path(path).write_text(json.dumps(content, indent=1) + "\n")


class RecordSource:
    """Random access to the records of one part: {'key': str, 'image': bytes, 'texts': list[str]}.

    With `pairs` in the part, record i is pair i and has that one text; without, record i is row i
    with all its texts.
    """

    def __init__(self, part: Component):
        """Opens the part's datasets.

        Raises:
          UserError: a dataset, split or file is missing, or they do not belong together.
        """
        self.part = part
        self._rows = open_dataset(part.dataset, part.split)
        self._scores = open_dataset(part.scores, part.split) if part.scores else None
        if self._scores is not None and len(self._scores) != len(self._rows):
            raise UserError(
                f"part {part.name!r}: scores {part.scores} have {len(self._scores)} rows, "
                f"dataset {part.dataset} has {len(self._rows)}; score this very dataset"
            )
        self._pairs = None if part.pairs is None else load_selected(part, len(self._rows))
        if not len(self):
            raise UserError(f"part {part.name!r} of the mixture holds nothing to train on")

    def __len__(self) -> int:
        return len(self._rows if self._pairs is None else self._pairs)

    def __getitem__(self, index: int) -> dict:
        """Returns record `index`.

        Raises:
          UserError: a pair names a text its row lacks, or a scores row is of another key.
        """
        row, chosen = index, None
        if self._pairs is not None:
            row, chosen = self._pairs[index].tolist()
        record = self._rows[row]
        key, texts = to_text(record["key"]), record["texts"]
        if self._scores is not None:
            scores = self._scores[row]
            texts = scores["texts"]["text"]
            if to_text(scores["key"]) != key:
                raise UserError(
                    f"part {self.part.name!r}: row {row} is {key!r} in the dataset and "
                    f"{to_text(scores['key'])!r} in its scores; score this very dataset"
                )
        texts = [to_text(text) for text in texts]
        if chosen is not None:
            if not 0 <= chosen < len(texts):
                raise UserError(
                    f"part {self.part.name!r}: {self.part.pairs} names text {chosen} of row {row}, "
                    f"which has {len(texts)}"
                )
            texts = [texts[chosen]]
        return {"key": key, "image": record["image"], "texts": texts}


def load_selected(part: Component, rows: int) -> np.ndarray:
    """Returns what a part trains on, int32 [P, 2]: see `Part.pairs`.

    Raises:
      UserError: the file is missing, holds something else, or names rows there are not.
    """
    file = epath.Path(part.pairs)
    if not file.exists():
        raise UserError(f"part {part.name!r}: pairs file {part.pairs} does not exist")
    with file.open("rb") as stream:
        try:
            pairs = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"pairs file {part.pairs} is not a .npy file: {error}") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        found = f"{pairs.dtype} {list(pairs.shape)}"
        raise UserError(f"pairs file {part.pairs} holds {found}; int32 [P, 2] is needed")
    if pairs.size and not (0 <= pairs[:, 0].min() and pairs[:, 0].max() < rows):
        raise UserError(f"pairs file {part.pairs} names rows outside 0 to {rows - 1}")
    return pairs
