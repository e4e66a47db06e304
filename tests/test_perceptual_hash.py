"""The perceptual hash against imagehash, and its grey pictures against PIL."""

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from blip_jax.data import perceptual_hash as hashes

# Height and width: wide, tall, as tall as PIL begins with the rows and a pixel taller, smaller than
# the hash's picture, with its length, and a row or column alone.
SIZES = [
    (192, 256), (375, 500), (500, 375), (112, 72), (113, 72), (300, 40), (20, 60), (60, 20),
    (32, 90), (90, 32), (32, 32), (33, 33), (1, 50), (50, 1), (40, 2000),
]  # fmt: skip


def pictures(height, width):
    """Noise, a smooth picture, black and white, a ramp, and one colour."""
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    ramp = np.empty_like(noise)
    ramp[:] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    smooth = cv2.GaussianBlur(noise, (31, 31), 9).reshape(noise.shape)
    flat = np.full_like(noise, rng.integers(0, 256, 3, np.uint8))
    return [noise, smooth, (noise > 128) * np.uint8(255), ramp, flat]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_hashes_and_small_pictures_are_those_of_imagehash_and_pil(size):
    for picture in pictures(*size):
        image = Image.fromarray(picture)
        grey = image.convert("L")
        np.testing.assert_array_equal(hashes._grey(picture), grey)
        small = grey.resize((32, 32), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(hashes._shrink(np.asarray(grey)), small)
        assert hashes.perceptual_hash(picture) == str(imagehash.phash(image))


def test_every_colour_turns_as_grey_as_in_pil():
    levels = np.array([*range(0, 256, 15), 1, 2, 127, 128, 254], np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    np.testing.assert_array_equal(hashes._grey(colours), Image.fromarray(colours).convert("L"))
