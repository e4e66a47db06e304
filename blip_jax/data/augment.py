"""Augmentation of training images: random crop, flip, RandAugment. Each can be off.

Images are uint8 [H, W, 3]. All randomness comes from the generator that is passed in. The
operations give the results of the original's transform/randaugment.py, quirks included.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import cv2
import numpy as np

from blip_jax.data.crops import Box, fast_crop, fast_jpeg_crop, random_crop_box
from blip_jax.data.images import decode, plain_jpeg_size, resize
from blip_jax.runtime.arguments import Share, check_fields
from blip_jax.runtime.errors import UserError

FILL = (128, 128, 128)
MAX_LEVEL = 10
OPS = (
    "Identity",
    "AutoContrast",
    "Brightness",
    "Sharpness",
    "Equalize",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)
FLIPS = ("none", "image", "image_and_text")
_SIDES = re.compile(r"\b(left|right)\b")


def swap_sides(text: str) -> str:
    """Returns the lower-case text with the words left and right exchanged."""
    return _SIDES.sub(lambda match: "right" if match[0] == "left" else "left", text)


def auto_contrast(image: np.ndarray, wrap: bool = True) -> np.ndarray:
    """Returns the image with each channel stretched to 0..255.

    Args:
      wrap: True gives the original's result: it negates the channel's minimum as an 8-bit
        number, so a channel whose minimum is not 0 comes out white nearly everywhere. Looks like
        a bug in the original, kept for parity. False gives PIL's ImageOps.autocontrast.
    """
    tables = np.empty((256, 3), np.uint8)
    for number, channel in enumerate(cv2.split(image)):
        low, high = int(channel.min()), int(channel.max())
        if high > low:
            scale = 255 / (high - low)
            shift = (-low % 256 if wrap else -low) * scale
            tables[:, number] = np.clip(np.arange(256) * scale + shift, 0, 255)
        else:
            tables[:, number] = np.arange(256)
    return cv2.LUT(image, tables[None])


def equalize(image: np.ndarray) -> np.ndarray:
    """Returns the image with each channel's histogram equalised, as PIL's ImageOps.equalize."""
    size = image.shape[0] * image.shape[1]
    tables = np.empty((256, 3), np.uint8)
    for number in range(3):
        counts = cv2.calcHist([image], [number], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (size - counts[np.flatnonzero(counts)[-1]]) // 255
        if step > 0:
            below = np.concatenate([[step // 2], counts[:-1]]).cumsum()
            tables[:, number] = np.minimum(below // step, 255)
        else:
            tables[:, number] = np.arange(256)
    return cv2.LUT(image, tables[None])


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns the image times `factor`, clipped."""
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor), 0, 255)
    return cv2.LUT(image, table.astype(np.uint8))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns the image blended with a smoothed one; the outermost pixels change only if it is 0.

    A factor of 1 changes nothing, 0 is smooth, more than 1 sharpens (clipped, where the original
    wraps around).
    """
    if factor == 1:
        return image
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = cv2.filter2D(image, -1, kernel / np.float32(13))
    if factor == 0:
        return smooth
    sharp, smooth = (x[1:-1, 1:-1].astype(np.float32) for x in (image, smooth))
    result = image.copy()
    result[1:-1, 1:-1] = np.clip(smooth + factor * (sharp - smooth), 0, 255).astype(np.uint8)
    return result


def _warp(image: np.ndarray, matrix) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = np.asarray(matrix, np.float64)
    return cv2.warpAffine(image, matrix, (width, height), borderValue=FILL)


def shear(image: np.ndarray, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Returns the image slanted by x columns a row or y rows a column; gaps are grey (FILL)."""
    return _warp(image, np.float32([[1, x, 0], [y, 1, 0]]))


def translate(image: np.ndarray, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Returns the image moved left by x and up by y pixels (fractions are interpolated)."""
    if x == int(x) and y == int(y):  # no pixel is interpolated
        height, width = image.shape[:2]
        x, y = int(np.clip(x, -width, width)), int(np.clip(y, -height, height))
        result = np.full(image.shape, FILL, np.uint8)
        result[max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)] = image[
            max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)
        ]
        return result
    return _warp(image, np.float32([[1, 0, -x], [0, 1, -y]]))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Returns the image turned counter-clockwise around (W/2, H/2)."""
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1))


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`n` operations drawn with replacement, each applied with probability one half.

    Attributes:
      n: operations an image. m: strength from 0 to 10.
      ops: names of OPS to draw from; the default is the original's list.
      autocontrast_wraps: True repeats a bug of the original (see `auto_contrast`), for parity.

    Raises:
      UserError: an unknown operation, or m out of range.
    """

    n: int = 2
    m: float = 5
    ops: tuple[str, ...] = OPS
    autocontrast_wraps: bool = False

    def __post_init__(self):
        unknown = sorted(set(self.ops) - set(OPS))
        if unknown or not self.ops:
            raise UserError(f"RandAugment ops {unknown} are unknown; choose from {', '.join(OPS)}")
        if not 0 <= self.m <= MAX_LEVEL:
            raise UserError(f"RandAugment m is {self.m}; it must be from 0 to {MAX_LEVEL}")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the augmented image, same shape; `image` itself is not changed."""
        for choice in rng.integers(len(self.ops), size=self.n):
            if rng.random() < 0.5:
                image = self.apply(self.ops[choice], image, 1 if rng.random() < 0.5 else -1)
        return image

    def apply(self, op: str, image: np.ndarray, sign: int = 1) -> np.ndarray:
        """Returns the image after one operation at strength `m`, to one side or the other."""
        part = self.m / MAX_LEVEL
        operations = {
            "Identity": lambda: image,
            "AutoContrast": lambda: auto_contrast(image, self.autocontrast_wraps),
            "Equalize": lambda: equalize(image),
            "Brightness": lambda: brightness(image, 0.1 + 1.8 * part),
            "Sharpness": lambda: sharpness(image, 0.1 + 1.8 * part),
            "ShearX": lambda: shear(image, x=sign * 0.3 * part),
            "ShearY": lambda: shear(image, y=sign * 0.3 * part),
            "TranslateX": lambda: translate(image, x=sign * 10 * part),
            "TranslateY": lambda: translate(image, y=sign * 10 * part),
            "Rotate": lambda: rotate(image, sign * 30 * part),
        }
        return operations[op]()


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """The augmentation of a training image. The defaults are those of BLIP's pre-training.

    Crops, rotations and colour changes make captions of the Shapes dataset false; use
    `TrainTransform.plain` there.

    Attributes:
      size: side of the result, pixels.
      scale: least and largest share of the area that a random crop keeps; None = no crop.
      flip: "none"; "image" mirrors half of the images, whatever their texts say, as the original;
        "image_and_text" also exchanges left and right in their texts.
      randaugment: None = off.
      fast: resize faster to nearly the same pixels, and decode large JPEGs at
        reduced scale (crops.py); False: exactly PIL's pixels.

    Raises:
      UserError: a setting is out of range.
    """

    size: int
    scale: tuple[float, float] | None = (0.2, 1.0)
    flip: str = "image"
    randaugment: RandAugment | None = RandAugment()
    fast: bool = False

    def __post_init__(self):
        if self.size < 1:
            raise UserError(f"image size is {self.size}; it must be 1 or more")
        if self.flip not in FLIPS:
            raise UserError(f"flip is {self.flip!r}; it must be one of {', '.join(FLIPS)}")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"crop scale is {self.scale}; it must rise within 0 to 1")

    @classmethod
    def plain(cls, size: int) -> TrainTransform:
        """Returns a transform that only resizes."""
        return cls(size, scale=None, flip="none", randaugment=None)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [size, size, 3] of an image uint8 [H, W, 3]."""
        return self.pair(image, "", rng)[0]

    def pair(
        self, image: np.ndarray, text: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, str]:
        """Returns the image, uint8 [size, size, 3], and its text.

        The text is changed only by flip "image_and_text".
        """
        box = self._box(*image.shape[:2], rng)
        top, left, height, width = box
        if self.fast:
            image = fast_crop(image, box, self.size)
        else:
            image = resize(image[top : top + height, left : left + width], self.size)
        return self._after_crop(image, text, rng)

    def pair_of_bytes(
        self, data: bytes, text: str, rng: np.random.Generator, exif_orientation: bool = True
    ) -> tuple[np.ndarray, str]:
        """Returns `pair` of an encoded image; see `images.decode`.

        Raises:
          ImageError: the image cannot be decoded.
        """
        if self.fast and (size := plain_jpeg_size(data)):
            box = self._box(*size[::-1], rng)
            return self._after_crop(fast_jpeg_crop(data, box, self.size), text, rng)
        return self.pair(decode(data, exif_orientation), text, rng)

    def _box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        if self.scale is None:
            return 0, 0, height, width
        return random_crop_box(height, width, self.scale, rng)

    def _after_crop(
        self, image: np.ndarray, text: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, str]:
        if self.flip != "none" and rng.random() < 0.5:
            image = cv2.flip(image, 1)
            text = swap_sides(text) if self.flip == "image_and_text" else text
        if self.randaugment is not None:
            image = self.randaugment(image, rng)
        return image, text


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images, as settings of a run; the defaults are pre-training's."""

    min_crop_area: Share = 0.2  # least share of an image that a random crop keeps; 1: no crop
    # Mirrors half of the images (image), and exchanges left and right in their texts too
    # (image_and_text).
    flip: Literal["none", "image", "image_and_text"] = "image"
    randaugment: bool = True  # BLIP's RandAugment
    # Resizes faster, to nearly PIL's pixels; decodes large JPEGs at reduced scale.
    fast: bool = False

    def __post_init__(self):
        check_fields(self, "data.augment.")

    def transform(self, size: int) -> TrainTransform:
        """Returns the transform of images to `size` pixels a side."""
        options = {} if self.randaugment else {"randaugment": None}
        scale = (self.min_crop_area, 1.0) if self.min_crop_area < 1 else None
        return TrainTransform(size, scale=scale, flip=self.flip, fast=self.fast, **options)
