"""Mixtures: JSON files that list datasets, or selections from them, with their weights.

Training reads a mixture; see `load_mixture`.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from blip_jax.data.datasets import ENCODED_FIELDS, Dataset, open_dataset, plain_fields, to_text
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import (
    absolute_path,
    check_regular,
    check_scheme,
    read_json,
    write_json,
)
from blip_jax.runtime.suggestions import hint


@dataclasses.dataclass(frozen=True)
class Component:
    """One dataset of a mixture, or a selection from it.

    Attributes:
      name: for messages and reports.
      dataset: directory of the images and their texts.
      split: split of it.
      weight: its share of all batches is weight / the sum of weights; 0 leaves it out.
      scores: directory of a CapFilt dataset, whose row i describes row i of `dataset`; the texts
        are then those of this dataset.
      selected: .npy file, int32 [P, 2], of (row, index of the row's text) to train on, in any
        order; None takes every row, with one of its texts drawn at each visit.
    """

    name: str
    dataset: str
    split: str = "train"
    weight: float = 1.0
    scores: str | None = None
    selected: str | None = None


def load_mixture(path: str) -> list[Component]:
    """Returns the components of a mixture file, with absolute paths.

    Args:
      path: JSON, {"components": [{"name", "dataset", "split", "weight", "scores", "selected"}, …]};
        only name and dataset are required. Paths in it may be relative to the file itself.

    Raises:
      UserError: the file is missing, is not such JSON, or has an unknown or wrong field.
    """
    check_scheme(path)
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"mixture file {path} does not exist")
    found = read_json(path)
    entries = found.get("components") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise UserError(f'mixture file {path} is not a mixture: expected {{"components": [...]}}')
    components = [_component(entry, path) for entry in entries]
    _check(components, path)

    def absolute(entry: str | None) -> str | None:
        return None if entry is None else absolute_path(entry, file.parent)

    return [
        dataclasses.replace(
            component,
            dataset=absolute(component.dataset),
            scores=absolute(component.scores),
            selected=absolute(component.selected),
        )
        for component in components
    ]


def _component(entry: Any, path: str) -> Component:
    """Returns a component of a mixture file, after a check of its fields."""
    if not isinstance(entry, dict):
        raise UserError(f"mixture file {path} is not a mixture: component {entry!r} is no object")
    name = entry.get("name")
    for field in dataclasses.fields(Component):
        value, optional = entry.get(field.name), field.default is None
        if field.name == "weight" or (value is None and (optional or field.name not in entry)):
            continue
        if not isinstance(value, str) or not value:
            raise UserError(
                f"mixture file {path}: {field.name} of component {name!r} is {value!r}; expected "
                "text"
            )
    fields = [field.name for field in dataclasses.fields(Component)]
    if unknown := [field for field in entry if field not in fields]:
        raise UserError(
            f"mixture file {path}: component {name!r} has no field {unknown[0]!r}; "
            f"{hint(unknown[0], fields)}"
        )
    for field in ("name", "dataset"):
        if field not in entry:
            raise UserError(f"mixture file {path}: component {name!r} has no {field}; add it")
    return Component(**entry)


def _check(components: list[Component], path: str) -> None:
    for component in components:
        weight = component.weight
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < math.inf:
            message = f"weight of component {component.name!r} is {weight!r}; give a number from 0"
            raise UserError(f"mixture file {path}: {message}")
    for name, count in collections.Counter(entry.name for entry in components).items():
        if count > 1:
            raise UserError(
                f"mixture file {path} has {count} components of the name {name!r}; give each its "
                "own name"
            )
    if not any(component.weight for component in components):
        raise UserError(f"mixture file {path} has no component with a weight above 0")


def save_mixture(path: str, components: list[Component]) -> None:
    """Writes a mixture file, with the paths as they are in the components."""
    write_json(path, {"components": [dataclasses.asdict(entry) for entry in components]})


class RecordSource:
    """Random access to a component's records, as dicts of plain values; images and clips are bytes.

    They have 'key' str, usually 'texts' list[str], and the dataset's other fields. If the
    component has `selected`, record i is entry i of that file and has that one text; otherwise
    record i is row i with all its texts.
    """

    def __init__(self, component: Component, fields: Sequence[str] = ("key",)):
        """Opens the component's datasets.

        Args:
          fields: that the records must have.

        Raises:
          UserError: a dataset, split, field or file is missing, or they do not belong together.
        """
        self.component = component
        self._rows = open_dataset(component.dataset, component.split, fields)
        scores, split = component.scores, component.split
        self._scores = open_dataset(scores, split, ("key", "texts")) if scores else None
        if self._scores is not None:
            check_scored(self._scores, scores)
        if self._scores is not None and len(self._scores) != len(self._rows):
            raise UserError(
                f"component {component.name!r}: scores {scores} have {len(self._scores)} rows, "
                f"dataset {component.dataset} has {len(self._rows)}; score this dataset"
            )
        self._selected = None
        if component.selected is not None:
            self._selected = load_selected(component, len(self._rows))
        if not len(self):
            raise UserError(f"component {component.name!r} of the mixture has nothing to train on")

    def __len__(self) -> int:
        return len(self._rows if self._selected is None else self._selected)

    def __getitem__(self, index: int) -> dict:
        """Returns record `index`.

        Raises:
          UserError: a selected text is not in its row, or the scores are of another dataset.
        """
        row, chosen = index, None
        if self._selected is not None:
            row, chosen = self._selected[index].tolist()
        record = self._rows[row]
        encoded = {name: record[name] for name in ENCODED_FIELDS if name in record}
        fields = plain_fields(record) | encoded
        key, texts = to_text(record["key"]), fields.get("texts")
        if self._scores is not None:
            scores = self._scores[row]
            texts = [to_text(text) for text in scores["texts"]["text"]]
            if to_text(scores["key"]) != key:
                raise UserError(
                    f"component {self.component.name!r}: row {row} is {key!r} in the dataset and "
                    f"{to_text(scores['key'])!r} in its scores; score this dataset"
                )
        if chosen is not None:
            check_selected_texts(self.component, row, [chosen], len(texts or ()))
            texts = [texts[chosen]]
        if texts is not None:
            fields["texts"] = texts
        return {**fields, "key": key}


def load_selected(component: Component, rows: int) -> np.ndarray:
    """Returns what a component trains on, int32 [P, 2]; see `Component.selected`.

    Raises:
      UserError: the file is missing, has other content, or selects rows that do not exist.
    """
    path = component.selected
    check_scheme(path)
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"component {component.name!r}: selection file {path} does not exist")
    check_regular(file)
    try:
        with file.open("rb") as stream:
            selected = np.load(stream, allow_pickle=False)
    except Exception as error:  # NumPy raises many types for a damaged file
        raise UserError(f"selection file {path} is not a .npy file: {error}") from error
    if not isinstance(selected, np.ndarray):
        raise UserError(f"selection file {path} holds several arrays; expected int32 [P, 2]")
    if selected.ndim != 2 or selected.shape[1] != 2 or selected.dtype.kind not in "iu":
        found = f"{selected.dtype} {list(selected.shape)}"
        raise UserError(f"selection file {path} holds {found}; expected int32 [P, 2]")
    if selected.size and not (0 <= selected[:, 0].min() and selected[:, 0].max() < rows):
        raise UserError(f"selection file {path} selects rows outside 0 to {rows - 1}")
    if selected.size and selected[:, 1].min() < 0:
        raise UserError(f"selection file {path} selects text {selected[:, 1].min()} of a row")
    return selected


def check_scored(scores: Dataset, directory: str) -> None:
    """Raises a UserError if a dataset is not one that CapFilt wrote."""
    try:
        scores.dataset_info.features["texts"]["text"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{directory} holds no scores of texts; give a folder of capfilt") from None


def check_selected_texts(
    component: Component, row: int, indices: Sequence[int], count: int
) -> None:
    """Raises a UserError if a component selects a text that its row, of `count` texts, lacks."""
    missing = [index for index in indices if not 0 <= index < count]
    if missing:
        raise UserError(
            f"component {component.name!r}: {component.selected} selects text {missing[0]} of row "
            f"{row}, which has {count}"
        )
