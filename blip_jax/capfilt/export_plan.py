"""Divides the images of a mixture into units of work for an export."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from blip_jax.data.datasets import Dataset, open_dataset
from blip_jax.data.mixture import Component, load_selected
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_path


@dataclasses.dataclass(frozen=True)
class Piece:
    """Successive images of a component: of those that its selection names, or of all.

    Attributes:
      start, stop: of the entries of the selection; without one, of the rows of the dataset.
      images: how many they are.
      selection: file of the component's selection, sorted; "": it has none.
    """

    component: Component
    start: int
    stop: int
    images: int
    selection: str

    def texts(self) -> Iterator[tuple[int, list[int] | None]]:
        """Yields each row with the indices of its selected texts; None: all."""
        if not self.selection:
            yield from ((row, None) for row in range(self.start, self.stop))
            return
        selected = np.load(self.selection, mmap_mode="r")[self.start : self.stop]
        rows, starts = np.unique(selected[:, 0], return_index=True)
        for row, indices in zip(rows.tolist(), np.split(selected[:, 1], starts[1:])):
            yield row, indices.tolist()


def plan_units(
    components: Sequence[Component], images: int, with_images: bool, folder: Path
) -> list[list[Piece]]:
    """Returns the pieces of each unit of work, which are `images` images; the last has fewer.

    Args:
      folder: the selections are written there, sorted.

    Raises:
      UserError: a dataset, its scores or its selection is missing, or they do not match.
    """
    units: list[list[Piece]] = []
    room = 0  # for images in the last unit
    for number, component in enumerate(components):
        rows = len(open_images(component, with_images))
        _check_scores(component, rows)
        selection, starts = "", range(rows + 1)
        if component.selected is not None:
            selection = os.fspath(folder / f"selection-{number:05d}.npy")
            starts = _write_sorted(load_selected(component, rows), selection)
        first, last = 0, len(starts) - 1
        while first < last:
            if not room:
                units.append([])
                room = images
            stop = min(first + room, last)
            entries = int(starts[first]), int(starts[stop])
            units[-1].append(Piece(component, *entries, stop - first, selection))
            room -= stop - first
            first = stop
    return units


def open_images(component: Component, with_images: bool) -> Dataset:
    """Returns the dataset of a component. Raises a UserError if it lacks what is exported."""
    fields = ["key", *["image"] * with_images, *["texts"] * (not component.scores)]
    return open_dataset(component.dataset, component.split, fields)


def _check_scores(component: Component, rows: int) -> None:
    """Raises a UserError if the scores of a component are missing, or are not of its `rows`."""
    if not component.scores:
        return
    found = len(open_dataset(component.scores, component.split))
    if found != rows:
        raise UserError(
            f"component {component.name!r}: scores {component.scores} have {found} rows, dataset "
            f"{component.dataset} has {rows}; score this dataset"
        )


def _write_sorted(selected: np.ndarray, path: str) -> np.ndarray:
    """Writes a selection, int [P, 2], in order and each entry once, for workers to map.

    Returns: int64 [R + 1], where the entries of each of its R rows start, and their number.
    """
    (row, index), (next_row, next_index) = selected[:-1].T, selected[1:].T
    if not ((next_row > row) | ((next_row == row) & (next_index > index))).all():
        selected = np.unique(selected, axis=0)  # `assemble` writes it in order
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, selected)
    row = selected[:, 0]
    is_start = np.append(True, row[1:] != row[:-1])[: len(row)]
    return np.append(np.flatnonzero(is_start), len(row))
