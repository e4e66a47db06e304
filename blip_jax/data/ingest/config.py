"""The settings of an import: what is read and how, and which records are rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from blip_jax.runtime.config import required
from blip_jax.runtime.errors import UserError

FORMATS = ("tar", "json", "csv", "parquet", "folder", "tfds")
MAX_NEAR_DUPLICATE_BITS = 10


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    """Which fields of the records hold what; "" tries the usual names.

    NAME is for all sources, SOURCE=NAME for one of those that config.source names; by commas:
    "photo,sbu=img".
    """

    key: str = ""  # the field that identifies a record; or SOURCE=FIELD, by commas
    image: str = ""  # the field of the image, its path or its URL; or SOURCE=FIELD, by commas
    text: str = ""  # the field of the text or texts; or SOURCE=FIELD, by commas
    url: str = ""  # the field of the URL to keep with the image; or SOURCE=FIELD, by commas

    def of_source(self, source: str) -> ColumnsConfig:
        """Returns the columns of one source, without those of others."""
        values = {}
        for kind, text in dataclasses.asdict(self).items():
            named = _by_source(text)
            values[kind] = named.get(source, named.get("", ""))
        return ColumnsConfig(**values)

    def check_sources(self, known: Iterable[str]) -> None:
        """Raises a UserError that names a source which is not among `known`."""
        for kind, text in dataclasses.asdict(self).items():
            for source in _by_source(text):
                if source and source not in known:
                    raise UserError(
                        f"config.columns.{kind} names the source {source!r}, which config.source "
                        f"does not have; known: {', '.join(known)}"
                    )


def _by_source(text: str) -> dict[str, str]:
    """Parses "photo,sbu=img" into {"": "photo", "sbu": "img"}."""
    parts = (part.strip().rpartition("=") for part in text.split(",") if part.strip())
    return {source.strip(): name.strip() for source, _, name in parts}


@dataclasses.dataclass(frozen=True)
class IngestConfig:
    """What is imported and how.

    Raises:
      UserError: a value is out of range.
    """

    # Files, folders, patterns or a TFDS name, by commas; NAME=PATTERN names the source.
    source: str = required("PATH")
    # Of all files; .jsonl is json, .tsv is csv. "" goes by the files' names.
    format: Literal["", "tar", "json", "csv", "parquet", "folder", "tfds"] = ""
    images: str = ""  # folder that image paths in lists start from; "" is the list's own
    split: str = "train"  # of TFDS inputs
    columns: ColumnsConfig = ColumnsConfig()
    header: str = ""  # names of CSV columns by commas, for files that start without them
    min_side: int = 0  # pixels; images with a shorter side below are rejected
    resize: int = 0  # pixels; a longer shorter side is scaled down to it; 0 keeps the bytes
    allow_no_text: bool = False  # whether images without any text become rows too
    # Fields that, where true, reject a record; X-Robots-Tag is searched for them.
    opt_out_fields: tuple[str, ...] = (
        "optout", "opt_out", "opted_out", "noai", "noimageai", "noindex", "noimageindex",
    )  # fmt: skip
    # Bits of the perceptual hash up to which images are marked as near duplicates; -1: none are.
    near_duplicate_bits: int = 4
    records_per_unit: int = 10_000  # records of a unit of work, where a file can be cut
    workers: int = 0  # processes; 0 is one a core

    def __post_init__(self):
        if self.format not in ("", *FORMATS):
            raise UserError(f"format is {self.format!r}; choose one of {', '.join(FORMATS)}")
        if self.records_per_unit < 1:
            raise UserError(f"records_per_unit is {self.records_per_unit}; it must be 1 or more")
        if not -1 <= self.near_duplicate_bits <= MAX_NEAR_DUPLICATE_BITS:
            raise UserError(
                f"near_duplicate_bits is {self.near_duplicate_bits}; it must be from 0 to "
                f"{MAX_NEAR_DUPLICATE_BITS}, or -1 for no search"
            )
        for name in ("min_side", "resize", "workers"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 or more")
