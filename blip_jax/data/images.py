"""Image bytes to arrays: decode, resize, normalise.

Axes: H height, W width, S side; channels are red, green, blue and come last.
"""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
from PIL import Image

# CLIP's statistics, which the original always uses, for values from 0 to 1.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
MAX_PIXELS = 100_000_000

# Grain's threads already run in parallel, and OpenCV's thread pool would compete with them. Images
# that cannot be decoded are reported by the callers, so OpenCV need not write to stderr.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(0)


class ImageError(ValueError):
    """The bytes are not a complete image; the message says why in a few words."""


def decode(data: bytes) -> np.ndarray:
    """Returns the picture, uint8 [H, W, 3].

    Transparency is dropped and EXIF rotation ignored, as by PIL's convert("RGB"), which the
    original uses; for JPEG and PNG the pixels are the same as PIL's.

    Args:
      data: a file's content, of any format PIL or OpenCV knows.

    Raises:
      ImageError: it is empty, damaged, truncated, not an image, or larger than MAX_PIXELS by its
        header (so that a decompression bomb is never decoded).
    """
    if not data:
        raise ImageError("no bytes")
    width, height = _size(data)
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than {MAX_PIXELS}")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if picture is None:  # a format that only PIL supports, or a damaged image
            picture = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception as error:
        raise ImageError(f"damaged or truncated ({type(error).__name__})") from error
    return picture


def _size(data: bytes) -> tuple[int, int]:
    """Returns width and height of the header."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        return struct.unpack(">II", data[16:24])  # three times faster than PIL
    try:
        return Image.open(io.BytesIO(data)).size
    except Exception as error:  # PIL raises many types of errors on damaged files
        raise ImageError("not an image PIL can identify") from error


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the image stretched to a square, uint8 [size, size, 3].

    Bicubic with anti-aliasing (PIL's, a = -0.5), as the original's torchvision transform on PIL
    images. OpenCV's cubic is faster, but skips pixels when it shrinks and differs visibly.

    Args:
      image: uint8 [H, W, 3].
      size: side in pixels.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def normalize(images):
    """Returns float32 [..., 3]: scaled to 0..1, less MEAN, by STD.

    Args:
      images: uint8 [..., 3], numpy or JAX (the result is of the same kind; under jit, too).
    """
    return (images.astype(np.float32) / np.float32(255) - MEAN) / STD
