"""Where people unpack the clips of MSRVTT and MSVD; each is distributed in several ways."""

from __future__ import annotations

from collections.abc import Mapping

# The owner's folder of clips, with its other names.
MSRVTT: Mapping[str, tuple[str, ...]] = {
    name: (f"videos/{name}", "videos/all", "videos", "video", "all", f"MSRVTT/{name}")
    for name in ("TrainValVideo", "TestVideo")
}
MSVD: Mapping[str, tuple[str, ...]] = {
    "YouTubeClips": ("videos/YouTubeClips", "videos", "video", "MSVD_Videos")
}


def msrvtt(number: int) -> str:
    """Returns FOLDER/FILE of MSRVTT's clip `video{number}`: 0 to 7009 are of train and validate."""
    folder = "TrainValVideo" if number < 7010 else "TestVideo"
    return f"{folder}/video{number}.mp4"
