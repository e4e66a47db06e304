"""The pictures of a record as one array: an image, a pair of images, or the frames of a clip.

Axes: S pixels a side, F frames; channels are red, green, blue and come last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from typing import Any, Literal

import numpy as np

from blip_jax.data.images import decode, resize
from blip_jax.data.video import frames
from blip_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class RecordPixels:
    """How the pictures of a dataset's records are read.

    Attributes:
      content: "image"; "pair", of `image` and `second_image`; or "clip", of `video`.
      image_size: S.
      num_frames: F of a clip.
      exif_orientation: see `images.decode`.
    """

    content: Literal["image", "pair", "clip"]
    image_size: int
    num_frames: int = 0
    exif_orientation: bool = True

    @classmethod
    def of(
        cls,
        features: Container[str],
        image_size: int,
        num_frames: int = 0,
        exif_orientation: bool = True,
        name: str = "the dataset",
    ) -> RecordPixels:
        """Returns how the records of a dataset with these features are read.

        Args:
          num_frames: frames of a clip; 0: the task is not one of clips.
          name: of the dataset, for messages.

        Raises:
          UserError: it holds clips, and num_frames is 0.
        """
        content: Literal["image", "pair", "clip"] = "image"
        if "video" in features:
            content = "clip"
            if not num_frames:
                raise UserError(
                    f"{name}, holds clips; evaluate them with --config evaluate:video_retrieval "
                    "or --config evaluate:video_qa"
                )
        elif "second_image" in features:
            content = "pair"
        return cls(content, image_size, num_frames, exif_orientation)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns (S, S, 3), of a pair (2, S, S, 3), of a clip (F, S, S, 3)."""
        leading = {"image": (), "pair": (2,), "clip": (self.num_frames,)}[self.content]
        return (*leading, self.image_size, self.image_size, 3)

    def read(self, record: Mapping[str, Any]) -> np.ndarray:
        """Returns the pictures of a record with encoded bytes, uint8 of `shape`.

        Raises:
          ImageError, VideoError: they cannot be decoded.
        """
        if self.content == "clip":
            return frames(record["video"], self.num_frames, self.image_size)
        first = self._image(record["image"])
        return first if self.content == "image" else np.stack(
            [first, self._image(record["second_image"])]
        )  # fmt: skip

    def _image(self, data: bytes) -> np.ndarray:
        return resize(decode(data, self.exif_orientation), self.image_size)
