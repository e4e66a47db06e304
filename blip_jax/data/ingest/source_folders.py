"""What a folder that config.source names is: one of tars, of tables, of lists, or of images."""

from __future__ import annotations

import dataclasses
import os
import re

from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.plan import SUFFIXES
from blip_jax.data.ingest.readers.folders import sidecars, walk
from blip_jax.data.ingest.records import IMAGES
from blip_jax.runtime.errors import UserError

# Only the files with the first of these endings that occurs are read: img2dataset also writes a
# Parquet file for each tar, and Hugging Face image folders have a metadata.jsonl or .csv.
TABLES = (".tar", ".tar.gz", ".tgz", ".parquet", "metadata.jsonl", "metadata.csv")
EXPORTED = ("data.jsonl", "captions.json")  # lists that `blip-jax export` writes
STATISTICS = "_stats.json"  # img2dataset's
# Files that describe a dataset and hold no records: Croissant's, Hugging Face's and TFDS's.
DESCRIPTIONS = (
    "croissant.json", "dataset_info.json", "dataset_infos.json", "features.json", "statistics.json",
)  # fmt: skip
# A split in the names of Hugging Face's files: train-00000-of-00002.parquet, or train/ above them.
SPLIT = re.compile(r"(?:^|[/._-])(train|training|validation|valid|val|dev|test)(?=[/._-])")
SHOWN = 3  # names in a message


@dataclasses.dataclass
class _Survey:
    """What is in a folder.

    Attributes:
      images: number of image files. with_text: whether one has a sidecar file.
      tables: paths by their ending in TABLES. lists: paths of other lists.
      arrow: paths of Arrow files.
      linked: paths of links to folders, which are not followed, as they may be cyclic.
    """

    images: int = 0
    with_text: bool = False
    tables: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    lists: list[str] = dataclasses.field(default_factory=list)
    linked: list[str] = dataclasses.field(default_factory=list)
    arrow: list[str] = dataclasses.field(default_factory=list)

    def first_tables(self) -> list[str]:
        """Returns the paths with the first ending in TABLES that occurs."""
        return next((self.tables[ending] for ending in TABLES if ending in self.tables), [])

    def all_but(self, chosen: list[str]) -> list[str]:
        """Returns the paths of tables and lists that are not among the chosen ones."""
        paths = [path for paths in self.tables.values() for path in paths] + self.lists
        known = set(chosen)
        return [path for path in paths if path not in known]


def choose(folder: str, settings: IngestConfig, passed_over: list[str]) -> tuple[str, list[str]]:
    """Returns the format of a folder and its files, none for a folder of images.

    Adds to `passed_over` a line for what is in the folder and will not be read.

    Raises:
      UserError: it cannot be known which of its files are meant.
    """
    if settings.format == "folder":
        return "folder", []
    if settings.format:
        return settings.format, _of_format(folder, settings.format)
    direct = _survey(folder, deep=False)
    if tables := direct.first_tables():
        kind = _kind(tables[0])
        if direct.with_text and kind in ("tar", "parquet"):
            raise UserError(
                f"{folder} has images with texts and also {_names(tables, folder)}; choose with "
                f"--config.format=folder or --config.format={kind}"
            )
        others = direct.all_but(tables)
        _note_splits(passed_over, folder, tables)
        named = kind in ("json", "csv", "parquet")  # these can name the images
        _note(passed_over, folder, others, 0 if named else direct.images)
        return kind, tables
    below = _survey(folder)
    if below.linked:
        passed_over.append(
            f"passed over in {folder}: links to folders, {_names(below.linked, folder)}; to read "
            "them, name them in --config.source"
        )
    if below.images and (below.with_text or settings.allow_no_text):
        _note(passed_over, folder, below.all_but([]), 0)
        return "folder", []
    tables = (
        below.first_tables()
        or [path for path in direct.lists if os.path.basename(path) in EXPORTED][:1]
    )
    if tables:
        kind = _kind(tables[0])
        others = below.all_but(tables)
        _note_splits(passed_over, folder, tables)
        _note(passed_over, folder, others, below.images if kind == "tar" else 0)
        return kind, tables
    if below.arrow:
        raise UserError(
            f"{folder} has Arrow files ({_names(below.arrow, folder)}), which are not read; save "
            "the dataset as Parquet (Dataset.to_parquet of Hugging Face's datasets)"
        )
    if below.lists:
        what = "images without texts, and" if below.images else "no images, but"
        alone = " (--config.allow_no_text=True takes the images alone)" if below.images else ""
        raise UserError(
            f"{folder} has {what} {_names(below.lists, folder)}; name the list with the texts as "
            f"--config.source, and where its image paths start as --config.images{alone}"
        )
    return "folder", []


def _of_format(folder: str, format: str) -> list[str]:
    """Returns the files of a format in a folder or, if there are none, below it."""
    endings = [ending for ending, kind in SUFFIXES.items() if kind == format]
    found: dict[str, list[str]] = {}
    for depth, (here, _, names) in enumerate(walk(folder)):
        for name in names:
            lower = name.lower()
            ending = next((ending for ending in endings if lower.endswith(ending)), None)
            if ending and not _is_description(lower):
                found.setdefault(ending, []).append(os.path.join(here, name))
        if found and depth == 0:
            break
    paths = next((found[ending] for ending in endings if ending in found), None)
    if not paths:
        raise UserError(f"folder {folder} has no {format} file; check --config.format")
    return paths


def _survey(folder: str, deep: bool = True) -> _Survey:
    """Returns what is in a folder and, if `deep`, below it."""
    survey = _Survey()
    for here, folders, names in walk(folder):
        _add(survey, here, names, set(folders))
        paths = [os.path.join(here, name) for name in folders]
        survey.linked += [path for path in paths if "://" not in path and os.path.islink(path)]
        if not deep:
            break
    return survey


def _add(survey: _Survey, here: str, names: list[str], folders: set[str]) -> None:
    """Adds the files of a folder to the survey."""
    images = {os.path.splitext(name)[0] for name in names if name.lower().endswith(IMAGES)}
    beside = {name for stem, files in sidecars(names).items() if stem in images for name in files}
    survey.images += sum(name.lower().endswith(IMAGES) for name in names)
    survey.with_text = survey.with_text or bool(beside)
    known = set(names)
    for name in names:
        lower = name.lower()
        path = os.path.join(here, name)
        ending = next((ending for ending in TABLES if lower.endswith(ending)), None)
        if ending == ".parquet":  # img2dataset's about the images of a tar or a folder
            stem = name[: -len(ending)]
            beside_images = bool(images) and f"{stem}{STATISTICS}" in known
            if f"{stem}.tar" in known or stem in folders or beside_images:
                continue
        if lower.endswith(".arrow"):
            survey.arrow.append(path)
        if ending:
            survey.tables.setdefault(ending, []).append(path)
        elif lower.endswith(tuple(SUFFIXES)) and name not in beside:
            if not _is_description(lower):
                survey.lists.append(path)


def _is_description(name: str) -> bool:
    """Returns whether a lower-case file name is that of a file about a dataset, without records."""
    return name in DESCRIPTIONS or name.endswith(STATISTICS)


def _kind(path: str) -> str:
    return next(kind for ending, kind in SUFFIXES.items() if path.lower().endswith(ending))


def _names(paths: list[str], folder: str) -> str:
    """Returns the first paths, relative to the folder, for a message; no control characters."""
    shown = [os.path.relpath(path, folder) for path in paths[:SHOWN]]
    shown = ["".join(c if c.isprintable() else "?" for c in path) for path in shown]
    return ", ".join([*shown, "…"] if len(paths) > SHOWN else shown)


def _note_splits(passed_over: list[str], folder: str, paths: list[str]) -> None:
    """Adds a line if files of several splits become one."""
    found = {
        match[1] for path in paths if (match := SPLIT.search(os.path.relpath(path, folder).lower()))
    }
    if len(found) > 1:
        passed_over.append(
            f"{folder} has files of the splits {', '.join(sorted(found))}, which become one; to "
            "read one of them, name its files in --config.source, as in 'FOLDER/train-*'"
        )


def _note(passed_over: list[str], folder: str, paths: list[str], images: int) -> None:
    parts = [_names(paths, folder)] * bool(paths)
    parts += [f"{images:,} image files"] * bool(images)
    if parts:
        passed_over.append(
            f"passed over in {folder}: {', '.join(parts)}; to read them, name them in "
            "--config.source or choose with --config.format"
        )
