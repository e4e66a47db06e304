"""Short video files about two objects, of the kind `clips` of the Shapes dataset.

No single frame shows both objects: one is there in the first half of the frames, the other in the
second. So what is asked, or what the caption says, is known from several frames only. What cannot
be read from a set of frames (an order, a direction, a number of objects) is not asked.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from blip_jax.data.synthetic.grammar import Phrase, Statement, render_text
from blip_jax.data.synthetic.scenes import Scene, World, pick
from blip_jax.data.video_file import pyav

MOTIONS = ("partial", "hop")
TEMPLATES = ("colour_of_shape", "shape_of_colour", "size_of_shape", "background", "exists")
FRAMES_PER_SECOND = 8


def clip_world(world: World) -> World:
    """Returns the world with exactly two objects a scene."""
    return dataclasses.replace(world, min_objects=2, max_objects=2)


def sample_frames(
    scene: Scene, motion: str, num_frames: int, world: World, rng: np.random.Generator
) -> list[Scene]:
    """Returns what each frame shows: one of the scene's two objects.

    Args:
      motion: "partial": an object stays in its place. "hop": it jumps to a random cell with each
        frame; its place in `scene` then means nothing.
      num_frames: 2 or more; the first object has the half that is rounded down.
    """
    first = int(rng.integers(2))
    order = scene.objects[first], scene.objects[1 - first]
    shown = [order[number >= num_frames // 2] for number in range(num_frames)]
    if motion == "hop":
        shown = [_moved(item, world, rng) for item in shown]
    return [Scene((item,), scene.background) for item in shown]


def _moved(item: Phrase, world: World, rng: np.random.Generator) -> Phrase:
    choices = world.choices()
    return dataclasses.replace(
        item, row=pick(choices["row"], rng), column=pick(choices["column"], rng)
    )


def clip_caption(scene: Scene, motion: str, rng: np.random.Generator) -> str:
    """Returns a true text about a clip: both objects, without places if they hop."""
    items = [scene.objects[i] for i in rng.permutation(2)]
    if motion == "hop":
        items = [dataclasses.replace(item, row="", column="") for item in items]
    return render_text(Statement(tuple(items), scene.background), rng)


def encode_video(frames: Sequence[np.ndarray]) -> bytes:
    """Returns an MP4 file (H.264) of frames, uint8 [H, W, 3] with even H and W.

    Raises:
      UserError: PyAV is not installed.
    """
    av = pyav()
    height, width = frames[0].shape[:2]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread, also for looking ahead, and a constant quantizer, so that the same frames give
        # the same bytes; nearly without loss, as pictures are tiny.
        stream.options = {"qp": "8", "preset": "veryfast", "threads": "1", "tune": "zerolatency"}
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
