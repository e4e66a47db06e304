"""The settings of an import: what is read and how, and which records are rejected."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Literal

from blip_jax.runtime.arguments import NonNegative, Positive, check_fields
from blip_jax.runtime.beam import BeamConfig
from blip_jax.runtime.config import required
from blip_jax.runtime.errors import UserError

BenchmarkName = Literal[
    "", "coco", "flickr30k", "msrvtt", "msrvtt_qa", "msvd_qa", "nlvr2", "nocaps", "visdial",
    "visual_genome", "visual_genome_vqa", "vqa_v2",
]  # fmt: skip
MAX_NEAR_DUPLICATE_BITS = 10


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    """Which fields of the records hold what; "" tries the usual names.

    NAME is for all sources, SOURCE=NAME for one of those that config.source names; by commas:
    "photo,sbu=img".
    """

    key: str = ""  # the field that identifies a record; or comma-separated SOURCE=FIELD
    image: str = ""  # the field of the image, its path or its URL; or comma-separated SOURCE=FIELD
    video: str = ""  # of clips, the field of the file or its path; or comma-separated SOURCE=FIELD
    text: str = ""  # the field of the text or texts; or comma-separated SOURCE=FIELD
    url: str = ""  # the field of the URL to keep with the image; or comma-separated SOURCE=FIELD

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


OPT_OUT_FIELDS = (
    "optout", "opt_out", "opted_out", "noai", "noimageai", "noindex", "noimageindex",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class IngestConfig:
    """What is imported and how.

    Raises:
      UserError: a value is out of range.
    """

    # Comma-separated files, folders, patterns (*, {a,b}, {00..12}), or a TFDS name; NAME=PATTERN
    # names the source. Of a benchmark its folder.
    source: str = required("PATH")
    # Published dataset that is read from its owner's files in the folder; "": none.
    benchmark: BenchmarkName = ""
    # Format of all files (.jsonl is json, .tsv is csv); "" takes it from each file's name.
    format: Literal["", "tar", "json", "csv", "parquet", "folder", "tfds"] = ""
    # Folder that image paths in lists start from, and that no link may leave; "": the list's.
    # Of a benchmark the folder that has the owner's folders of images or clips; "": the source.
    images: str = ""
    split: str = "train"  # split of the benchmark, which the dataset's then has, or of TFDS inputs
    columns: ColumnsConfig = ColumnsConfig()
    header: str = ""  # comma-separated CSV column names, for files without a header
    min_side: NonNegative = 0  # pixels; images with a shorter side below are rejected
    resize: NonNegative = 0  # pixels; a longer shorter side is scaled down to it; 0 keeps the bytes
    allow_no_text: bool = False  # keep images without any text
    # Fields that reject a record if true; the text of X-Robots-Tag is searched for these names.
    opt_out_fields: tuple[str, ...] = OPT_OUT_FIELDS
    # Images whose perceptual hashes differ in at most this many bits are marked as near duplicates;
    # -1: none.
    near_duplicate_bits: int = 4
    records_per_unit: Positive = 10_000  # records per unit of work, if a file can be divided
    workers: NonNegative = 0  # processes; 0: one per core
    beam: BeamConfig = BeamConfig()  # Apache Beam in place of these processes

    @property
    def benchmark_folder(self) -> str:
        """The folder of the benchmark's files, without ~."""
        return os.path.expanduser(self.source)

    @property
    def output_split(self) -> str:
        """The split of the dataset that is written."""
        return self.split if self.benchmark else "train"

    def __post_init__(self):
        check_fields(self)
        if self.benchmark:
            given = {"format": self.format, "header": self.header}
            given |= {f"columns.{k}": v for k, v in dataclasses.asdict(self.columns).items()}
            if used := [name for name, value in given.items() if value]:
                raise UserError(
                    f"config.{used[0]} is given, but the files of {self.benchmark} are known; "
                    "leave it out, or leave out config.benchmark"
                )
        if not -1 <= self.near_duplicate_bits <= MAX_NEAR_DUPLICATE_BITS:
            raise UserError(
                f"near_duplicate_bits is {self.near_duplicate_bits}; it must be from 0 to "
                f"{MAX_NEAR_DUPLICATE_BITS}, or -1 for no search"
            )
