"""Crops that are resized fast: nearly the pixels of PIL, with their mean and spread."""

import cv2
import numpy as np
import pytest
from malformed_files import encoded
from PIL import Image

from blip_jax.data import crops, images
from blip_jax.data.augment import TrainTransform

SIZE = 64


def photo(height, width, noise=15):
    """A picture with coarse and fine detail, and grain."""
    rng = np.random.default_rng(0)
    total = rng.normal(0, noise, (height, width, 3)).astype(np.float32) + 120
    for size in (2, 4, 8, 16, 32, 64):
        coarse = rng.standard_normal((height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += 5 * size**0.5 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def jpeg(picture, **options):
    return encoded(Image.fromarray(picture), quality=95, **options)


def check(found, exact, difference, spread):
    """Compares with PIL's pixels: the mean difference of a pixel, of all, and their spread."""
    found, exact = found.astype(int), exact.astype(int)
    assert np.abs(found - exact).mean() < difference
    assert abs(found.mean() - exact.mean()) < 0.3
    assert abs(found.std() / exact.std() - 1) < spread


@pytest.mark.parametrize("scale", [0.6, 1, 1.2, 1.5, 2, 2.4, 3, 3.5])
def test_fast_crops_are_nearly_pils(scale):
    """Of a photo a pixel differs by less than one level of 255, of which rounding twice to whole
    levels makes a quarter; of white noise, the worst case, by a few levels."""
    height, width = round(SIZE * scale), round(SIZE * min(scale * 1.2, 3.5))
    box = (7, 5, height, width)
    for picture, difference, spread in (
        (photo(height + 9, width + 9), 1, 0.005),
        (np.random.default_rng(0).integers(0, 256, (height + 9, width + 9, 3), np.uint8), 4, 0.03),
    ):
        found = crops.fast_crop(picture, box, SIZE)
        exact = images.resize(picture[7 : 7 + height, 5 : 5 + width], SIZE)
        assert found.shape == exact.shape and found.dtype == np.uint8
        check(found, exact, difference, spread)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_large_jpegs_are_decoded_at_reduced_scale(reduction, monkeypatch):
    side = reduction * round(SIZE * 1.3)
    data = jpeg(photo(side + 64, side + 128))
    box = (2 * reduction, 3 * reduction, side, side)
    exact = images.decode(data)[box[0] : box[0] + side, box[1] : box[1] + side]
    monkeypatch.setattr(images, "decode", None)  # of the whole at full scale
    found = crops.fast_jpeg_crop(data, box, SIZE)
    # A picture this full of detail loses some of it, most at 1/8 (a mean of 8 x 8 pixels).
    check(found, images.resize(exact, SIZE), 2.5, 0.025)


def test_a_crop_at_the_edge_stays_within_the_reduced_picture():
    data = jpeg(photo(131, 261))
    found = crops.fast_jpeg_crop(data, (2, 130, 129, 131), SIZE)
    exact = images.resize(images.decode(data)[2:, 130:], SIZE)
    check(found, exact, 6, 0.05)  # moved by up to half a pixel


@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_and_exact_transforms_draw_the_same(orientation):
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    data = jpeg(photo(90, 120, noise=0), exif=exif)
    for seed in range(20):
        texts = []
        for fast in (False, True):
            transform = TrainTransform(SIZE, flip="image_and_text", fast=fast)
            pairs = [
                transform.pair_of_bytes(data, "left", np.random.default_rng(seed)) for _ in "ab"
            ]
            np.testing.assert_array_equal(pairs[0][0], pairs[1][0])
            texts.append(pairs[0])
        (exact, said), (fast, also) = texts
        assert said == also
        assert np.abs(exact.astype(int) - fast).mean() < 2
        decoded = TrainTransform(SIZE, flip="image_and_text").pair(
            images.decode(data), "left", np.random.default_rng(seed)
        )
        np.testing.assert_array_equal(exact, decoded[0])


@pytest.mark.parametrize("side", [100, 300])
def test_damaged_images_are_refused(side):
    data = jpeg(photo(side, side))
    transform = TrainTransform(SIZE, fast=True)
    for bad in (b"", data[: len(data) // 2], data[:200], b"\xff\xd8\xff" + data[5:]):
        with pytest.raises(images.ImageError):
            transform.pair_of_bytes(bad, "", np.random.default_rng(0))
