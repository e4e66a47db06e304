"""Video files to frames: evenly spaced in time, upright, without holding the whole clip.

Axes: F frames, H height, W width, S side; channels are red, green, blue and come last.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_jax.data.images import MAX_PIXELS, resize
from blip_jax.data.video_file import (
    FrameIndex,
    VideoError,
    damage_named,
    frame_index,
    open_video,
)

# A clip of which more than this share does not decode is refused; else frames stand in for others.
_MOST_DAMAGED = 0.5


def frames(data: bytes, count: int, image_size: int | None = None) -> np.ndarray:
    """Returns frames of a clip, evenly spaced in time, uint8 [F, H, W, 3].

    The clip is divided into F parts of the same duration; of each the frame that is shown at its
    middle is taken, by the frames' timestamps. So a clip of fewer frames than F repeats them. Where
    a frame is damaged, the one before it stands in. The file's rotation is applied.

    Only groups of pictures that hold a wanted frame are decoded, and only wanted frames are kept.

    Args:
      data: a file's content, of one of FORMATS.
      count: F.
      image_size: S: each frame is stretched to [S, S, 3]; None: as large as it is.

    Raises:
      VideoError: it is no video, has no picture (such as audio alone), is damaged or cut off, or
        its frames are larger than MAX_PIXELS.
      UserError: PyAV is not installed.
    """
    with open_video(data) as (container, stream):
        index = frame_index(container, stream)
    wanted = index.frames_at((np.arange(count) + 0.5) / count)
    found: list[np.ndarray] = []
    with open_video(data) as (container, stream):
        for frame, times in _chosen(container, stream, index, wanted):
            pixels = _upright(frame)
            pixels = pixels if image_size is None else resize(pixels, image_size)
            found += [pixels] * times
    if len({pixels.shape for pixels in found}) > 1:
        raise VideoError("its frames have several sizes")
    return np.stack(found)


def _chosen(
    container: Any, stream: Any, index: FrameIndex, wanted: np.ndarray
) -> Iterator[tuple[Any, int]]:
    """Yields decoded frames, and how often each is wanted, in the order of `wanted` [F], sorted.

    Raises:
      VideoError: most packets do not decode.
    """
    decoder = _Decoder(stream.codec_context, index.has_times)
    before, waiting = None, wanted.tolist()
    for time, frame in decoder.frames(container, stream, index, wanted):
        late = sum(moment < time for moment in waiting)
        if late and before is not None:
            yield before, late
            waiting = waiting[late:]
        here = sum(moment <= time for moment in waiting)
        if here:
            yield frame, here
            waiting = waiting[here:]
        before = frame
        if not waiting:
            break
    if before is None or decoder.failed > _MOST_DAMAGED * decoder.read:
        raise VideoError(f"damaged: {decoder.failed} of {decoder.read} frames do not decode")
    if waiting:
        yield before, len(waiting)


class _Decoder:
    """Decodes groups of pictures.

    Attributes:
      read, failed: packets so far, and those of them that are damaged.
    """

    def __init__(self, codec: Any, has_times: bool):
        self._codec, self._has_times = codec, has_times
        codec.thread_count = 1  # the callers read several clips at once
        self.read = self.failed = 0

    def frames(
        self, container: Any, stream: Any, index: FrameIndex, wanted: np.ndarray
    ) -> Iterator[tuple[float, Any]]:
        """Yields (time, frame) of the groups that are needed, in the order of being shown."""
        needed = index.needed_groups(wanted)
        numbers: Iterator[int] | None = None  # of the frames that the decoder gives next
        for place, packet in enumerate(_packets(container, stream)):
            if place >= len(index.groups) or index.groups[place] not in needed:
                continue
            numbers = numbers or itertools.count(place)
            yield from self._decode(packet, numbers)
            following = index.groups[place + 1] if place + 1 < len(index.groups) else -1
            if following not in needed:
                # The decoder holds frames back, and must not build on what is left out.
                yield from self._decode(None, numbers)
                self._codec.flush_buffers()
                numbers = None

    def _decode(self, packet: Any, numbers: Iterator[int]) -> Iterator[tuple[float, Any]]:
        """Yields the frames that a packet completes, none if it is damaged; of None those held."""
        import av

        self.read += packet is not None
        try:
            found = self._codec.decode(packet)
        except (av.error.FFmpegError, ValueError):
            self.failed += packet is not None
            return
        for frame in found:
            number = next(numbers)
            if not self._has_times:
                yield number, frame
            elif frame.pts is not None:
                yield frame.pts, frame


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yields the packets of a stream that are not empty, up to where the file is damaged."""
    import av

    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.error.FFmpegError:
        return


def _upright(frame: Any) -> np.ndarray:
    """Returns a frame's pixels as a player shows them, uint8 [H, W, 3]."""
    if frame.width * frame.height > MAX_PIXELS:
        raise VideoError(f"{frame.width}x{frame.height} pixels are more than {MAX_PIXELS}")
    with damage_named("its pixels cannot be converted"):
        pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # x of the picture is a x + c y of the frame, y is b x + d y; turns are multiples of 90 degrees.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, x_sign, y_sign = pixels.transpose(1, 0, 2), c, b
    else:
        x_sign, y_sign = a, d
    return np.ascontiguousarray(pixels[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1])
