"""MSRVTT-QA: questions about MSRVTT's clips, made of their captions.

FOLDER/{train,val,test}_qa.json
FOLDER/TrainValVideo/video0.mp4, FOLDER/TestVideo/video7010.mp4   (also video/video0.mp4)
"""

from __future__ import annotations

from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import clip_folders, clip_questions
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    return clip_questions.records(files[0], clip_folders.msrvtt)


BENCHMARK = Benchmark(
    name="msrvtt_qa",
    url="https://github.com/xudejing/video-question-answering",
    splits=clip_questions.splits(
        ("test", 2_990, 72_821), ("train", 6_513, 158_581), ("val", 497, 12_278)
    ),
    read=_read,
    image_folders=clip_folders.MSRVTT,
    has_clips=True,
)
