"""Questions about clips in the format of MSRVTT-QA and MSVD-QA: {train,val,test}_qa.json.

A file is a list of {"id", "video_id", "question", "answer"}, and "category_id" of MSRVTT-QA. A
record is a clip with all of its questions, each with its one right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blip_jax.data.ingest.benchmarks.base import ImageRecord, Split
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile

FIELDS = {"id": int, "video_id": int, "question": str, "answer": str}


def records(file: OwnerFile, clip: Callable[[int], str]) -> Iterator[ImageRecord]:
    """Yields the clips of a file with their questions, in the order of their first ones.

    Args:
      clip: maps a clip's number to FOLDER/FILE.
    """
    clips: dict[int, list[dict]] = {}
    for row in file.rows(file.load(), "", FIELDS):
        value = {"id": str(row["id"]), "question": row["question"], "answers": [row["answer"]]}
        clips.setdefault(row["video_id"], []).append(value | {"type": ""})
    for number, questions in clips.items():
        fields = {"video_id": str(number), "questions": questions}
        yield ImageRecord(str(number), video=clip(number), fields=fields)


def splits(*counts: tuple[str, int, int], more: tuple[str, ...] = ()) -> dict[str, Split]:
    """Returns the splits of (name, clips, questions), each read from its file and `more` files."""
    return {
        name: Split(((f"{name}_qa.json", *more),), {"clips": clips, "questions": questions})
        for name, clips, questions in counts
    }
