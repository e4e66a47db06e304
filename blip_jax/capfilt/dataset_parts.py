"""A scored dataset in parts of successive images, each a unit of work."""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from blip_jax.capfilt import image_index
from blip_jax.capfilt.mixture import ScoredDataset
from blip_jax.capfilt.score_reader import read_rows
from blip_jax.capfilt.selection import SelectionRules, select_texts
from blip_jax.capfilt.table import TextTable, load_table
from blip_jax.data.datasets import open_dataset
from blip_jax.runtime.beam import UnitStopped, Work
from blip_jax.runtime.files import remove_incomplete
from blip_jax.runtime.fingerprint import path_digest, values_digest
from blip_jax.runtime.work_units import Engine, finish_units

PART = 100_000  # images of a unit of work, which takes seconds
_NAME = re.compile(r"parts-[0-9a-f]{12}")  # of the folders of this module
_INDEX_COLUMNS = ("source", "license", "opt_out", "distance")


@dataclasses.dataclass(frozen=True)
class Parts:
    """A scored dataset in parts of successive images.

    Attributes:
      source: the images and their scores.
      images: their number.
      folder: for the files of the units.
      size: images of a part; the last has fewer.
    """

    source: ScoredDataset
    images: int
    folder: str
    size: int

    @classmethod
    def of(cls, source: ScoredDataset, workdir: str) -> "Parts":
        """Returns the parts of a dataset, PART images each, with a folder in `workdir`.

        The folder is named by the content of the dataset; those of others are removed.
        """
        images = len(open_dataset(source.scores, source.split))
        digests = path_digest(source.scores), path_digest(source.dataset)
        name = f"parts-{values_digest([*digests, source.split])[:12]}"
        for other in epath.Path(workdir).glob("parts-*"):
            if _NAME.fullmatch(other.name) and other.name != name:
                other.rmtree()
        return cls(source, images, os.path.join(workdir, name), PART)

    def remove(self) -> None:
        """Removes the files of the units."""
        epath.Path(self.folder).rmtree()

    @property
    def numbers(self) -> range:
        return range(max(-(-self.images // self.size), 1))

    def rows(self, number: int) -> range:
        """Returns the rows of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.images))

    def path(self, number: int, suffix: str) -> epath.Path:
        """Returns the path of a file of a unit."""
        return epath.Path(self.folder) / f"{number:06d}.{suffix}"

    def begin_stage(self, name: str, settings: Any) -> str:
        """Returns what names the files of a stage, and removes its files of other settings."""
        stage = f"{name}-{values_digest(settings)[:12]}"
        for other in epath.Path(self.folder).glob(f"*.{name}-*"):
            if f".{stage}." not in other.name:
                other.unlink()
        return stage

    def table(self, number: int, should_continue: Callable[[], bool]) -> TextTable:
        """Returns the texts of a part: of the file of `measure_parts`, or as they are stored."""

        def check(count: int) -> None:
            if not should_continue():
                raise UnitStopped

        path = self.path(number, "arrow")
        if path.exists():
            return load_table(path)
        return read_rows(self.source.scores, self.source.split, self.rows(number), check)

    def index(self, number: int) -> image_index.Images | None:
        """Returns the index of the images of a part; None if the dataset has no index."""
        rows = np.array(self.rows(number), np.int64)
        return image_index.read(self.source.dataset, self.images, rows, _INDEX_COLUMNS)

    def check_rules(self, rules: SelectionRules) -> None:
        """Raises a UserError if rules name an unknown filter, column or source, before any work."""
        nothing = np.zeros(0, np.int64)
        table = read_rows(self.source.scores, self.source.split, [])
        index = image_index.read(self.source.dataset, self.images, nothing, _INDEX_COLUMNS)
        select_texts(table, rules, index)
        if rules.source_weights:
            image_index.check_sources(self.source.dataset, rules.source_weights)

    def finish(
        self, title: str, make_work: Callable[[], Work], suffix: str, engine: Engine
    ) -> None:
        """Runs a unit of work on each part that lacks the file of this suffix."""
        folder = epath.Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_incomplete(folder)

        def finished() -> set[int]:
            return {int(path.name.split(".")[0]) for path in folder.glob(f"*.{suffix}")}

        finish_units(
            title,
            self.numbers,
            make_work,
            finished,
            dataclasses.replace(engine, folder=os.path.join(self.folder, "beam")),
            unit="row",
            size=lambda number: len(self.rows(number)),
            enabled=len(self.numbers) > 1,
        )
