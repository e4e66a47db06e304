"""The fields of an import: what is read and how, and what is set aside."""

from __future__ import annotations

import dataclasses
import os

from ml_collections import ConfigDict

from blip_jax.runtime.errors import UserError

FORMATS = ("tar", "json", "csv", "parquet", "folder", "tfds")
COLUMNS = ("key", "image", "text", "url")
MAX_NEAR = 10


def defaults() -> ConfigDict:
    """The fields of an import; configs/prepare.py shows how they are given."""
    return ConfigDict({
        # Files, folders, patterns or a TFDS name, by commas; NAME=PATTERN names the source.
        "source": "",
        "format": "",  # of FORMATS (.jsonl is json, .tsv csv); "" goes by the files' names
        "images": "",  # folder that image paths in lists start from; "" is the list's own
        "split": "train",  # of TFDS inputs
        "columns": ConfigDict(dict.fromkeys(COLUMNS, "")),  # fields' names; "" tries usual ones
        "header": "",  # names of CSV columns by commas, for files that start without them
        "min_side": 0,  # pixels; images with a shorter side below are set aside
        "resize": 0,  # pixels; a longer shorter side is brought down to it; 0 keeps the bytes
        "allow_no_text": False,  # whether images without any text are rows too
        # Fields that, where true, set a record aside; X-Robots-Tag is looked through for them.
        "opt_out_fields": ("optout", "opt_out", "opted_out", "noai", "noimageai", "noindex",
                           "noimageindex"),
        # Bits of the perceptual hash up to which images are marked as near duplicates; -1: none.
        "near_duplicate_bits": 4,
        "records_per_unit": 10_000,  # records a unit, where a file can be cut
        "workers": 0,  # processes; 0 is one a core
    }).lock()  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the rows of an import; fields as in `defaults`.

    Raises:
      UserError: one is out of range.
    """

    source: str
    format: str = ""
    images: str = ""
    split: str = "train"
    columns: tuple[tuple[str, str], ...] = ()
    header: str = ""
    min_side: int = 0
    resize: int = 0
    allow_no_text: bool = False
    opt_out_fields: tuple[str, ...] = ()
    near_duplicate_bits: int = 4
    records_per_unit: int = 10_000

    def __post_init__(self):
        if not self.source:
            raise UserError("config.source is empty; give it with --config.source=PATH")
        if self.format not in ("", *FORMATS):
            raise UserError(f"unknown format {self.format!r}; known: {', '.join(FORMATS)}")
        if self.records_per_unit < 1:
            raise UserError(f"records_per_unit is {self.records_per_unit}; it must be 1 or more")
        if not -1 <= self.near_duplicate_bits <= MAX_NEAR:
            raise UserError(
                f"near_duplicate_bits is {self.near_duplicate_bits}; it must be from 0 to "
                f"{MAX_NEAR}, or -1 for no search"
            )
        for name in ("min_side", "resize"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def from_config(config: ConfigDict) -> tuple[Settings, int]:
    """The settings, and how many processes work.

    Raises:
      UserError: a value is out of range.
    """
    values = config.to_dict()
    workers = values.pop("workers")
    if workers < 0:
        raise UserError(f"workers is {workers}; it must be 0 or more")
    values["columns"] = tuple(sorted(values["columns"].items()))
    values["opt_out_fields"] = tuple(values["opt_out_fields"])
    return Settings(**values), workers or len(os.sched_getaffinity(0))
