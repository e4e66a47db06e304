"""Random crops of pictures, and a faster way to resize them to nearly PIL's pixels.

In the latter, large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where a crop allows. PIL's
bicubic filter, which grows as a picture shrinks, is replaced by two steps that OpenCV has in fast
code: a blur of few weights, and OpenCV's bicubic interpolation. The weights of the blur are those
with which the two together come nearest to PIL's filter.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from blip_jax.data import images

MAX_SCALE = 3  # by which the blur and interpolation shrink a picture; PIL beyond
STEPS = 64  # scales between two whole ones for which weights are computed
REDUCTIONS = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4,
              2: cv2.IMREAD_REDUCED_COLOR_2}  # fmt: skip

Box = tuple[int, int, int, int]  # top, left, height, width


def random_crop_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Returns top, left, height and width of a random part of an image.

    The part has `scale` times the area and a ratio of width to height between 3/4 and 4/3,
    uniform in its logarithm; after ten parts that do not fit, the largest central one that keeps
    to these ratios. As torchvision's RandomResizedCrop.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def fast_crop(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Returns a part of a picture, uint8 [H, W, 3], stretched to uint8 [size, size, 3]."""
    top, left, height, width = box
    part = picture[top : top + height, left : left + width]
    if max(height, width) > MAX_SCALE * size:
        return images.resize(part, size)
    if (height, width) != (size, size):
        blur = [_blur(round(STEPS * max(side / size, 1))) for side in (width, height)]
        part = cv2.sepFilter2D(part, -1, *blur, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC)


def fast_jpeg_crop(data: bytes, box: Box, size: int) -> np.ndarray:
    """Returns `fast_crop` of a JPEG whose EXIF has no orientation.

    It is decoded at the least scale at which neither side of the box is shorter than `size`; the
    box is then moved by up to half a pixel.

    Raises:
      ImageError: it cannot be decoded.
    """
    for reduction, flag in REDUCTIONS.items():
        if min(box[2:]) >= reduction * size:
            flags = flag & ~cv2.IMREAD_COLOR_BGR | cv2.IMREAD_COLOR_RGB
            picture = images.decode_opencv(data, flags)
            if picture is None:
                break
            top, left, height, width = (round(x / reduction) for x in box)
            height, width = min(height, len(picture)), min(width, picture.shape[1])
            top = min(top, len(picture) - height)
            left = min(left, picture.shape[1] - width)
            return fast_crop(picture, (top, left, height, width), size)
    return fast_crop(images.decode(data), box, size)


@functools.lru_cache(MAX_SCALE * STEPS)
def _blur(scale: int) -> np.ndarray:
    """Returns the weights for shrinking by scale / STEPS, float32, symmetric, of sum 1.

    Least squares between PIL's filter and that of OpenCV behind the blur, both continuous.
    """
    scale = scale / STEPS
    reach = 3 if scale <= 2 else 5
    x = np.arange(-reach - 2, reach + 2, 1 / 16)
    shifted = [_cubic(x, -0.75)] + [
        _cubic(x - shift, -0.75) + _cubic(x + shift, -0.75) for shift in range(1, reach + 1)
    ]
    difference = _cubic(x / scale, -0.5) / scale - shifted[0]
    # The weight in the middle is 1 less the others, so that the sum is 1.
    basis = np.stack([both - 2 * shifted[0] for both in shifted[1:]], axis=1)
    side = np.linalg.lstsq(basis, difference, rcond=None)[0]
    return np.concatenate([side[::-1], [1 - 2 * side.sum()], side]).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Returns the cubic convolution kernel; a is -0.5 in PIL, -0.75 in OpenCV."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
