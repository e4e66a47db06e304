"""Video files as containers of packets: opened, checked, and indexed without decoding."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_jax.data.images import MAX_PIXELS
from blip_jax.runtime.errors import UserError

# Containers that FFmpeg may open. Playlists are none of them: they could name other files.
FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg")
_TRUSTED_DURATION = ("mov", "matroska")  # whose header has the duration; others are estimates
# A file with less than this share of what its header promises was cut off. Headers are not exact.
_LEAST_SHARE = 0.9


class VideoError(ValueError):
    """The bytes are not a complete video; the message says why in a few words."""


@contextlib.contextmanager
def open_video(data: bytes) -> Iterator[tuple[Any, Any]]:
    """Opens a file's content; gives the container and its first stream of pictures.

    Raises:
      VideoError: it is none of FORMATS, or has none. UserError: PyAV is not installed.
    """
    av = pyav()
    if not data:
        raise VideoError("no bytes")
    with damage_named("not a video, or cut off"):
        container = av.open(io.BytesIO(data), options={"format_whitelist": ",".join(FORMATS)})
    with container:
        cover = av.stream.Disposition.attached_pic  # a picture of an audio file
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            has_audio = bool(container.streams.audio)
            raise VideoError("audio alone" if has_audio else "no picture in it, or cut off")
        codec = streams[0].codec_context
        if codec is None:
            raise VideoError("its codec is unknown")
        if codec.width * codec.height > MAX_PIXELS:
            raise VideoError(f"{codec.width}x{codec.height} pixels are more than {MAX_PIXELS}")
        yield container, streams[0]


@contextlib.contextmanager
def damage_named(problem: str) -> Iterator[None]:
    """Turns an error of FFmpeg into a VideoError."""
    import av

    try:
        yield
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{problem} ({type(error).__name__})") from error


def pyav() -> Any:
    """Returns the module of PyAV.

    Raises:
      UserError: it is not installed.
    """
    try:
        import av  # of the extra `video`; only clips need it
    except ImportError as error:
        raise UserError('clips need PyAV: pip install "blip-jax[video]"') from error
    return av


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """When each frame is shown, and in which group of pictures it is.

    Attributes:
      shown: [N] sorted times at which frames are shown, in any unit.
      end: time at which the last frame ends.
      groups: [N] of each packet, in the file's order, the number of its group: those from one
        keyframe to the next.
      times: [N] time of each packet's frame, in the file's order.
      starts: time of each group's keyframe.
      has_times: whether `shown` are timestamps; else the numbers of the frames.
    """

    shown: np.ndarray
    end: float
    groups: np.ndarray
    times: np.ndarray
    starts: np.ndarray
    has_times: bool

    def frames_at(self, parts: np.ndarray) -> np.ndarray:
        """Returns the times of the frames that are shown after these parts, 0 to 1, of the clip."""
        start = self.shown[0]
        moments = start + parts * (self.end - start)
        return self.shown[np.searchsorted(self.shown, moments, side="right") - 1]

    def needed_groups(self, wanted: np.ndarray) -> set[int]:
        """Returns the groups to decode for frames that are shown at these times.

        Frames that come after a keyframe in the file but are shown before it need the group before.
        """
        chosen = np.isin(self.times, wanted)
        groups = self.groups[chosen]
        early = groups[self.times[chosen] < self.starts[groups]] - 1
        return {int(group) for group in (*groups, *early) if group >= 0}


def frame_index(container: Any, stream: Any) -> FrameIndex:
    """Returns the index of a file's packets, without decoding any.

    Raises:
      VideoError: the file is cut off.
    """
    first, last = 0.0, 0.0  # seconds; headers count from 0, unless the clip starts before
    packets = []  # (timestamp or None, duration, whether a keyframe, whether it is shown)
    with damage_named("its packets cannot be read"):
        for packet in container.demux():
            if packet.pts is not None:
                start = float(packet.pts * packet.time_base)
                first = min(first, start)
                last = max(last, start + float((packet.duration or 0) * packet.time_base))
            if packet.stream_index == stream.index and packet.size:
                shown = not packet.is_discard
                packets.append((packet.pts, packet.duration or 0, packet.is_keyframe, shown))
    _check_complete(container, stream, len(packets), last - first)
    if not packets:
        raise VideoError("no picture in it")
    keys = np.array([key for _, _, key, _ in packets])
    # AVI has no timestamps: FFmpeg's are guesses, and are wrong where frames are reordered.
    given = [pts for pts, *_ in packets]
    has_times = "avi" not in container.format.name and None not in given
    has_times = has_times and len(set(given)) == len(given)
    times = np.array(given if has_times else range(len(packets)), np.int64)
    shown = np.sort(times[[shown or not has_times for *_, shown in packets]])
    if not len(shown):
        raise VideoError("no picture in it")
    durations = {time: packet[1] for time, packet in zip(times.tolist(), packets)}
    ends = durations[int(shown[-1])] if has_times else 1
    if not ends:  # as long as the frames before in the mean
        ends = (shown[-1] - shown[0]) / max(len(shown) - 1, 1) or 1
    groups = np.maximum(np.cumsum(keys) - 1, 0)
    starts = times[np.unique(groups, return_index=True)[1]]
    return FrameIndex(shown, float(shown[-1] + ends), groups, times, starts, has_times)


def _check_complete(container: Any, stream: Any, packets: int, seconds: float) -> None:
    """Raises a VideoError if a header promises clearly more than there is."""
    if packets < _LEAST_SHARE * stream.frames:
        raise VideoError(f"cut off: {packets} of {stream.frames} frames are there")
    trusted = any(name in container.format.name for name in _TRUSTED_DURATION)
    duration = (container.duration or 0) / 1e6  # microseconds
    if trusted and seconds < _LEAST_SHARE * duration:
        raise VideoError(f"cut off: {seconds:.1f} of {duration:.1f} seconds are there")
