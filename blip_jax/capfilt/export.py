"""The verb `export`: writes the images and texts of a mixture as files for other programs.

The images are divided into units of work. Until all are done, the folder `OUT.unfinished` holds

    fingerprint.json     what the files are made of, by which the same command resumes
    units/NNNNN/         the files of a unit, and its counts; beside these, sorted selections
    export/              the folder that is renamed to OUT at the end
"""

import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from blip_jax.capfilt import croissant, image_index, writers
from blip_jax.capfilt.export_plan import Piece, plan_units
from blip_jax.capfilt.export_rows import Row, RowReader
from blip_jax.data.datasets import open_dataset, split_digest
from blip_jax.data.mixture import Component, load_mixture
from blip_jax.runtime.beam import BeamConfig, UnitStopped, Work
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import (
    atomic_folder,
    new_folder_path,
    read_json,
    remove_incomplete,
    rename_folder,
    temporary_name,
    write_json,
)
from blip_jax.runtime.fingerprint import FILE, check_fingerprint, file_digest
from blip_jax.runtime.lock import LOCK, folder_lock
from blip_jax.runtime.work_units import Engine, finish_units
from blip_jax.runtime.worker_pool import num_workers

NO_BEAM = BeamConfig()
UNFINISHED, UNITS, RESULT, COUNTS = ".unfinished", "units", "export", "counts.json"
MOVED = ("*.tar", "data/*.parquet", "images/*/*")  # files and folders of a unit
CARD = ("README.md", "statistics.json")  # written by `assemble` next to the mixture
INDEX_ROWS = 1_000_000  # rows of the index whose opt-out fields are in memory


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What is exported, and how.

    Attributes:
      to: one of writers.FORMATS.
      images: where images are written, one of `PLACES` of the format's writer; "": the first.
      components: names of those that are exported; (): all.
      shard: images of a unit of work, and so of a tar or Parquet file.

    Raises:
      UserError: the format does not take `images`, or `shard` is too small.
    """

    to: str
    images: str = ""
    components: tuple[str, ...] = ()
    shard: int = 10_000

    def __post_init__(self):
        places = writers.FORMATS[self.to].PLACES
        object.__setattr__(self, "images", self.images or places[0])
        if self.images not in places:
            known = " or ".join(places)
            raise UserError(f"--to {self.to} takes --images {known}, not {self.images}")
        if self.shard < 1:
            raise UserError(f"--shard is {self.shard}; expected 1 or more")

    @property
    def with_images(self) -> bool:
        """Returns whether images are written at all."""
        return self.images != "none"


class Counts(NamedTuple):
    """What an export wrote: numbers of images and texts, and keys of what is not an image."""

    images: int
    texts: int
    skipped: list[str]


def run(
    mixture: str, out: str, settings: ExportSettings, workers: int = 0, beam: BeamConfig = NO_BEAM
) -> Counts:
    """Writes the folder `out`, whole or not at all; after an interruption the same call resumes.

    Args:
      workers: processes; 0: one per core.
      beam: Apache Beam in place of these processes.

    Raises:
      UserError: the mixture is incomplete, `out` exists, or was begun with other settings.
      Interrupted: a signal came; units that are finished are kept.
    """
    components = _components(mixture, settings.components)
    target, source = new_folder_path(out), Path(mixture).parent
    folder = target.with_name(target.name + UNFINISHED)
    about = croissant.read(source)
    with folder_lock(folder, "export"):
        parts, result = folder / UNITS, folder / RESULT
        if not (folder / FILE).exists() and set(os.listdir(folder)) - {LOCK}:
            raise UserError(f"{folder} exists already; choose another path than {out}")
        begun = result.is_dir()
        check_fingerprint(folder, "export", _fingerprint(components, settings), begun=begun)
        if not begun:  # a run that was killed while it removed the folder may have left some
            shutil.rmtree(parts, ignore_errors=True)
        for path in (parts, result):
            path.mkdir(exist_ok=True)
        remove_incomplete(parts)
        try:
            names = opt_out_names(components)
            units = plan_units(components, settings.shard, settings.with_images, parts)
            finish_units(
                "export",
                range(len(units)),
                functools.partial(_unit_work, units, settings, names, os.fspath(parts)),
                functools.partial(_finished, parts),
                Engine(num_workers(workers), beam, os.fspath(folder / "beam")),
                unit="image",
                size=lambda number: _images(units[number]),
            )
        except BaseException:
            if not _finished(parts):
                _remove(folder)
            raise
        own = [_unit_path(parts, number) for number in range(len(units))]
        found = [read_json(path / COUNTS) for path in own]
        files = [file for unit in found for file in unit["files"]]
        files += _collect(own, result, settings.to)
        for name in CARD:
            if (source / name).is_file():
                shutil.copy(source / name, result)
        metadata = croissant.exported(settings.to, settings.images, files, names, about)
        (result / croissant.FILE).write_text(croissant.text_of(metadata), encoding="utf-8")
        rename_folder(result, target)
        _remove(folder)
    images, texts = (sum(unit[name] for unit in found) for name in ("images", "texts"))
    return Counts(images, texts, [key for unit in found for key in unit["skipped"]])


def _remove(folder: Path) -> None:
    """Removes an unfinished folder; a kill meanwhile, or a worker that comes late, does no harm."""
    shutil.rmtree(folder / RESULT, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / UNITS).rename(folder / temporary_name(UNITS))  # no unit begins there any more
    shutil.rmtree(folder, ignore_errors=True)


def _components(mixture: str, names: Sequence[str]) -> list[Component]:
    """Returns the components of these names; without names those with a weight above 0."""
    components = load_mixture(mixture)
    if unknown := sorted(set(names) - {entry.name for entry in components}):
        known = ", ".join(entry.name for entry in components)
        raise UserError(f"{mixture} has no component {unknown[0]!r}; it has {known}")
    return [entry for entry in components if (entry.name in names if names else entry.weight)]


def _fingerprint(components: Sequence[Component], settings: ExportSettings) -> dict[str, Any]:
    """Returns what decides the files: the settings, and digests of what is read, in order."""
    digests = {
        component.name: {
            "split": component.split,
            "dataset": _digest(component.dataset, component.split),
            "index": file_digest(epath.Path(component.dataset) / image_index.FILE),
            "scores": component.scores and _digest(component.scores, component.split),
            "selected": component.selected and file_digest(component.selected),
        }
        for component in components
    }
    return {"mixture": list(digests), "settings": settings, "sources": digests}


def _digest(directory: str, split: str) -> str:
    return split_digest(directory, open_dataset(directory, split), split)


def opt_out_names(components: Sequence[Component]) -> list[str]:
    """Returns the names of the opt-out fields that images of the components have."""
    names: set[str] = set()
    for dataset, split in {(x.dataset, x.split) for x in components if "[" not in x.split}:
        rows = len(open_dataset(dataset, split))
        for start in range(0, rows, INDEX_ROWS):
            own = np.arange(start, min(start + INDEX_ROWS, rows))
            index = image_index.read(dataset, rows, own, ["opt_out"])
            names.update(index.opt_out_names() if index else ())
    return sorted(names)


def _images(unit: Sequence[Piece]) -> int:
    """Returns the number of images of a unit."""
    return sum(piece.images for piece in unit)


def _unit_path(parts: Path, number: int) -> Path:
    return parts / f"{number:05d}"


def _finished(parts: Path) -> set[int]:
    """Returns the numbers of the units that are finished."""
    return {int(path.name) for path in parts.glob("*") if path.name.isdecimal()}


def _unit_work(
    units: Sequence[Sequence[Piece]], settings: ExportSettings, opt_out: list[str], parts: str
) -> Work:
    """Returns what a worker does with the number of a unit: it writes the unit's folder."""
    reader, make_writer = RowReader(settings.with_images), writers.FORMATS[settings.to]

    def work(number: int, should_continue: Callable[[], bool]) -> None:
        def rows() -> Iterator[Row]:
            for piece in units[number]:
                for row in reader.rows(piece):
                    if not should_continue():
                        raise UnitStopped
                    yield row

        path = _unit_path(Path(parts), number)
        # Runners of Beam may repeat a unit, also after the end of the run.
        if path.exists() or not path.parent.exists():
            return
        try:
            with atomic_folder(path) as folder:
                writer = make_writer(folder, number, settings.shard, settings.images, opt_out)
                writer.write(rows())
                files = [croissant.file_object(tar) for tar in folder.glob("*.tar")]
                counts = {"images": writer.images, "texts": writer.texts}
                write_json(folder / COUNTS, counts | {"skipped": writer.skipped, "files": files})
        except UserError:
            if not path.exists():
                raise

    return work


def _collect(parts: Sequence[Path], result: Path, to: str) -> list[dict]:
    """Moves the files of the units to their places, joins their lists, and describes the latter.

    It can be repeated, so that a run that was killed within it can be resumed.
    """
    for part in parts:
        for pattern in MOVED:
            for path in part.glob(pattern):
                place = result / path.relative_to(part)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.rename(place)
    if name := writers.FORMATS[to].LIST:
        writers.FORMATS[to].join([part / name for part in parts], result / name)
        return [croissant.file_object(result / name)]
    return []
