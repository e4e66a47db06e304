"""MSVD-QA: questions about the YouTube clips of MSVD, made of their captions.

FOLDER/{train,val,test}_qa.json
FOLDER/youtube_mapping.txt    in each line the name of a clip and its number: NAME vid1
FOLDER/YouTubeClips/-4wsuPCjDBc_5_15.avi   (also video/…)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import clip_folders, clip_questions
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

LINE = re.compile(r"(\S+)\s+vid(\d+)")


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    questions, mapping = files
    names = _names(mapping)

    def clip(number: int) -> str:
        if number not in names:
            raise mapping.wrong(f"has no clip vid{number}, about which {questions.path} asks")
        return f"YouTubeClips/{names[number]}.avi"

    return clip_questions.records(questions, clip)


def _names(file: OwnerFile) -> dict[int, str]:
    """Returns the names of the clips by their numbers."""
    names = {}
    for number, line in enumerate(file.load_text().splitlines(), start=1):
        if not line.strip():
            continue
        found = LINE.fullmatch(line.strip())
        if not found:
            raise file.wrong(f"has a line {number} that is not NAME vidNUMBER")
        names[int(found[2])] = found[1]
    return names


BENCHMARK = Benchmark(
    name="msvd_qa",
    url="https://github.com/xudejing/video-question-answering",
    splits=clip_questions.splits(
        ("test", 520, 13_157),
        ("train", 1_200, 30_933),
        ("val", 250, 6_415),
        more=("youtube_mapping.txt",),
    ),  # fmt: skip
    read=_read,
    image_folders=clip_folders.MSVD,
    has_clips=True,
)
