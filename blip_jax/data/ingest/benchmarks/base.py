"""What a benchmark is: its splits, the files each is read from, and the images they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig


@dataclasses.dataclass
class ImageRecord:
    """All that a benchmark says of an image, of a pair of images, or of a clip.

    Attributes:
      key: the owner's id of the image.
      image: FOLDER/FILE as the owner has it; where FOLDER is, ImageFolders finds out. "" of a clip.
      texts: the captions.
      fields: what a task needs besides, such as {"questions": [...]}.
      elsewhere: further places of the same image, if the files do not say which it is.
      second_image: of a pair, as `image`; else "".
      video: of a clip, as `image`; else "".
    """

    key: str
    image: str = ""
    texts: list[str] = dataclasses.field(default_factory=list)
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()
    second_image: str = ""
    video: str = ""


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a benchmark.

    Attributes:
      files: the names of the files that are read together; if there are several such groups, the
        first that is complete is read.
      published: counts that the owner gives, by COUNTED's names.
      optional: files that are read too if they are there, with what is missing without them.
    """

    files: tuple[tuple[str, ...], ...]
    published: Mapping[str, int]
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A published dataset.

    Attributes:
      name: of config.benchmark.
      url: where the owner publishes the files.
      splits: by config.split; the first is that of the config `prepare:NAME`.
      read: returns the records of the files of a split, in the owner's order.
      image_folders: other names that an owner's folder of images or clips has.
      has_clips: whether a record has a clip in place of an image.
    """

    name: str
    url: str
    splits: Mapping[str, Split]
    read: Callable[[list[OwnerFile], IngestConfig], Iterator[ImageRecord]]
    image_folders: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    has_clips: bool = False


# What is counted in the records, and compared with the published counts.
COUNTED: Mapping[str, Callable[[ImageRecord], int]] = {
    "images": lambda record: 1 if record.image and not record.second_image else 0,
    "pairs of images": lambda record: 1 if record.second_image else 0,
    "clips": lambda record: 1 if record.video else 0,
    "captions": lambda record: len(record.texts),
    "questions": lambda record: len(record.fields.get("questions", ())),
    "statements": lambda record: len(record.fields.get("statements", ())),
    "dialog rounds": lambda record: len(record.fields.get("rounds", ())),
}
