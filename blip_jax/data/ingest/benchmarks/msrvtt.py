"""MSRVTT: clips with 20 captions each; and 1k-A, the 1,000 clips on which retrieval is measured.

FOLDER/train_val_videodatainfo.json   splits train and val
FOLDER/test_videodatainfo.json        split test
FOLDER/MSRVTT_JSFUSION_test.csv       split test_1k_a: a caption of each of 1,000 clips of test
FOLDER/msrvtt_test.jsonl              or the same as BLIP's list
FOLDER/TrainValVideo/video0.mp4, FOLDER/TestVideo/video7010.mp4   (also videos/all/video0.mp4)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from blip_jax.data.ingest.benchmarks import clip_folders
from blip_jax.data.ingest.benchmarks.base import Benchmark, ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig

OWNER_SPLITS = {"train": "train", "val": "validate", "test": "test"}
CLIP = re.compile(r"video(\d{1,6})")
COLUMNS = ("key", "vid_key", "video_id", "sentence")  # of the list of 1k-A


def _read(files: list[OwnerFile], settings: IngestConfig) -> Iterator[ImageRecord]:
    (file,) = files
    if settings.split == "test_1k_a":
        return _listed(file)
    return _described(file, OWNER_SPLITS[settings.split])


def _described(file: OwnerFile, split: str) -> Iterator[ImageRecord]:
    """Yields the clips of a split of a file with "videos" and "sentences"."""
    document = file.load()
    clips = file.rows(document, "videos", {"video_id": str, "split": str})
    sentences = file.rows(document, "sentences", {"video_id": str, "caption": str})
    texts: dict[str, list[str]] = {clip["video_id"]: [] for clip in clips}
    for sentence in sentences:
        if sentence["video_id"] not in texts:
            raise file.wrong(
                f"has a sentence of {sentence['video_id']}, which is not in its list 'videos'"
            )
        texts[sentence["video_id"]].append(sentence["caption"])
    for clip in clips:
        if clip["split"] != split:
            continue
        name = clip["video_id"]
        fields = {"video_id": name} | {
            field: clip[field] for field in ("category", "url", "start time", "end time")
            if field in clip
        }  # fmt: skip
        yield _record(file, name, texts[name], fields)


def _listed(file: OwnerFile) -> Iterator[ImageRecord]:
    """Yields the clips of the list of 1k-A, each with one caption."""
    if file.name.endswith(".csv"):
        for row in file.load_csv(COLUMNS):
            fields = {"video_id": row["video_id"], "retrieval_key": row["key"]}
            yield _record(file, row["video_id"], [row["sentence"]], fields)
        return
    for row in file.rows(file.load_lines(), "", {"clip_name": str, "caption": str}):
        fields = {"video_id": row["clip_name"]}
        yield _record(file, row["clip_name"], [row["caption"]], fields)


def _record(file: OwnerFile, name: str, texts: list[str], fields: dict) -> ImageRecord:
    found = CLIP.fullmatch(name)
    if not found:
        raise file.wrong(f"names the clip {name!r}, which should be video0 … video9999")
    return ImageRecord(name, video=clip_folders.msrvtt(int(found[1])), texts=texts, fields=fields)


def _split(file: str, clips: int, captions: int) -> Split:
    return Split(((file,),), {"clips": clips, "captions": captions})


BENCHMARK = Benchmark(
    name="msrvtt",
    url="https://www.microsoft.com/en-us/research/publication/"
    "msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/",
    splits={
        "test_1k_a": Split(
            (("MSRVTT_JSFUSION_test.csv",), ("msrvtt_test.jsonl",)),
            {"clips": 1_000, "captions": 1_000},
        ),
        "train": _split("train_val_videodatainfo.json", 6_513, 130_260),
        "val": _split("train_val_videodatainfo.json", 497, 9_940),
        "test": _split("test_videodatainfo.json", 2_990, 59_800),
    },
    read=_read,
    image_folders=clip_folders.MSRVTT,
    has_clips=True,
)
