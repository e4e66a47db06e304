"""Small video files for tests: frame n is grey, LEVEL * n, with a white corner."""

import io
import itertools

import numpy as np

LEVEL = 6
HEIGHT, WIDTH = 48, 64


def make(
    count: int = 24, times=None, format: str = "mp4", codec: str = "libx264", rotation: int = 0,
    audio: bool = False, group: int = 250,
) -> bytes:  # fmt: skip
    """A file of `count` frames at 8 a second, or shown at `times` (eighths of a second).

    Args:
      rotation: degrees against the clock that a player turns it by.
      group: frames from one keyframe to the next, at most.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.bit_rate = group, 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number, time in zip(range(count), times or itertools.count()):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            _mux_sound(container, sound)
    return file.getvalue()


def picture(number: int) -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH, 3), LEVEL * number, np.uint8)
    pixels[:16, :16] = 255
    return pixels


def audio_alone() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        _mux_sound(container, container.add_stream("aac", rate=8000, layout="mono"))
    return file.getvalue()


def _mux_sound(container, stream) -> None:
    import av

    for number in range(8):
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 1024 * number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames these are, uint8 [F, H, W, 3]."""
    middle = frames[:, HEIGHT // 2, WIDTH // 2].astype(float).mean(-1)
    return np.round(middle / LEVEL).astype(int).tolist()
