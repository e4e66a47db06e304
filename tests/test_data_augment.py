"""Images and augmentation. Expected values are the original's output, or PIL's."""

import io

import numpy as np
import pytest
from PIL import Image

from blip_jax.data import augment, crops, images
from blip_jax.data.augment import RandAugment, TrainTransform
from blip_jax.runtime.errors import UserError

IMAGE = ((np.arange(48) * 37 + 11) % 200 + 20).reshape(4, 4, 3).astype(np.uint8)
GREEN = [[68, 179, 90, 201], [112, 23, 134, 45], [156, 67, 178, 89], [200, 111, 22, 133]]


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


LITERALS = {
    "auto_contrast": (
        lambda: augment.auto_contrast(np.maximum(IMAGE, 20) * (np.arange(48).reshape(4, 4, 3) > 2)),
        [[0, 227, 114, 255], [142, 29, 170, 57], [197, 85, 225, 112], [253, 140, 27, 168]],
    ),
    "auto_contrast of a channel without black": (
        lambda: augment.auto_contrast(IMAGE),
        [[255] * 4] * 4,
    ),
    "auto_contrast as PIL": (
        lambda: augment.auto_contrast(IMAGE, wrap=False),
        [[65, 223, 96, 254], [128, 1, 159, 32], [190, 64, 222, 95], [253, 126, 0, 158]],
    ),
    "brightness": (
        lambda: augment.brightness(IMAGE, 0.5),
        [[34, 89, 45, 100], [56, 11, 67, 22], [78, 33, 89, 44], [100, 55, 11, 66]],
    ),
    "sharpness": (
        lambda: augment.sharpness(IMAGE, 0.5),
        [[68, 179, 90, 201], [112, 54, 126, 45], [156, 82, 147, 89], [200, 111, 22, 133]],
    ),
    "smooth": (
        lambda: augment.sharpness(IMAGE, 0.0),
        [[78, 122, 95, 139], [102, 85, 119, 101], [115, 98, 116, 99], [139, 121, 79, 123]],
    ),
    "shear x": (
        lambda: augment.shear(IMAGE, x=0.15),
        [[68, 179, 90, 201], [114, 36, 117, 58], [148, 94, 145, 116], [168, 151, 62, 83]],
    ),
    "shear y": (
        lambda: augment.shear(IMAGE, y=-0.15),
        [[68, 156, 103, 131], [112, 30, 147, 65], [156, 74, 131, 109], [200, 114, 54, 131]],
    ),
    "translate x": (
        lambda: augment.translate(IMAGE, x=1.5),
        [[134, 146, 164, 128], [78, 90, 86, 128], [122, 134, 108, 128], [66, 78, 130, 128]],
    ),
    "translate y": (lambda: augment.translate(IMAGE, y=-1), [[128] * 4, *GREEN[:3]]),
    "rotate": (
        lambda: augment.rotate(IMAGE, 15),
        [[131, 130, 143, 139], [93, 77, 112, 74], [127, 59, 178, 102], [167, 118, 49, 107]],
    ),
    "shrink": (lambda: images.resize(IMAGE, 2), [[98, 119], [124, 97]]),
}


@pytest.mark.parametrize("name", LITERALS)
def test_operations_give_literal_values(name):
    result, expected = LITERALS[name]
    assert result()[..., 1].tolist() == expected


def test_enlarging_and_equalizing_give_literal_values():
    assert IMAGE[..., 1].tolist() == GREEN
    enlarged = images.resize(IMAGE, 6)[..., 1]
    assert enlarged[0].tolist() == [57, 129, 182, 94, 147, 219]
    assert enlarged[5].tolist() == [209, 167, 95, 16, 72, 144]
    ramp = (np.arange(32 * 32 * 3) % 97 + 60).reshape(32, 32, 3).astype(np.uint8)
    flat = augment.equalize(ramp)[:2, :6, 0]
    assert flat.tolist() == [[0, 11, 21, 32, 43, 53], [255, 7, 18, 28, 39, 50]]
    assert augment.equalize(IMAGE).tolist() == IMAGE.tolist()  # too few pixels: unchanged


def test_strength_five_is_what_the_original_pretrains_with():
    five = RandAugment(m=5)
    for op in ("Identity", "Brightness", "Sharpness"):
        assert five.apply(op, IMAGE).tolist() == IMAGE.tolist()
    assert five.apply("ShearX", IMAGE).tolist() == augment.shear(IMAGE, x=0.15).tolist()
    assert five.apply("ShearY", IMAGE, -1).tolist() == augment.shear(IMAGE, y=-0.15).tolist()
    assert five.apply("TranslateX", IMAGE).tolist() == augment.translate(IMAGE, x=5).tolist()
    assert five.apply("TranslateY", IMAGE, -1).tolist() == augment.translate(IMAGE, y=-5).tolist()
    assert five.apply("Rotate", IMAGE).tolist() == augment.rotate(IMAGE, 15).tolist()


def test_each_drawn_operation_is_done_half_the_time_to_both_sides():
    rng = np.random.default_rng(0)
    once = RandAugment(n=1, m=2, ops=("TranslateX",))
    seen = [once(IMAGE, rng)[..., 1].tolist() for _ in range(600)]
    left = augment.translate(IMAGE, x=2)[..., 1].tolist()
    right = augment.translate(IMAGE, x=-2)[..., 1].tolist()
    shares = [seen.count(value) / 600 for value in (GREEN, left, right)]
    assert sum(shares) == pytest.approx(1)
    np.testing.assert_allclose(shares, (0.5, 0.25, 0.25), atol=0.06)


def test_crops_have_the_stated_area_and_ratio():
    rng = np.random.default_rng(0)
    boxes = [crops.random_crop_box(200, 300, (0.2, 0.5), rng) for _ in range(400)]
    top, left, height, width = np.array(boxes).T
    assert top.min() >= 0 and left.min() >= 0
    assert (top + height).max() <= 200 and (left + width).max() <= 300
    area, ratio = height * width / 60_000, width / height
    assert 0.19 < area.min() < 0.23 and 0.47 < area.max() < 0.51
    assert 0.74 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.35
    central = crops.random_crop_box(10, 400, (1, 1), rng)  # no part fits: 4:3
    assert central == (0, 193, 10, 13)


def test_parts_of_the_transform_can_be_switched_off():
    rng = np.random.default_rng(0)
    plain = TrainTransform.plain(2)
    assert all((plain(IMAGE, rng) == images.resize(IMAGE, 2)).all() for _ in range(20))
    words = TrainTransform(4, scale=None, flip="image_and_text", randaugment=None)
    text = "a dog left of the rightmost cat, right here"
    for _ in range(20):
        picture, said = words.pair(IMAGE, text, rng)
        mirrored = (picture == IMAGE[:, ::-1]).all()
        assert mirrored or (picture == IMAGE).all()
        swapped = "a dog right of the rightmost cat, left here"
        assert said == (swapped if mirrored else text)
    mirror = TrainTransform(4, scale=None, flip="image", randaugment=None)
    seen = {(mirror.pair(IMAGE, text, rng)[0].tobytes(), text) for _ in range(20)}
    assert len(seen) == 2
    default = TrainTransform(224)
    assert (default.scale, default.flip) == ((0.2, 1.0), "image")
    assert (default.randaugment.n, default.randaugment.m) == (2, 5)


@pytest.mark.parametrize("bad", [{"flip": "up"}, {"scale": (0.5, 1.2)}, {"size": 0}])
def test_wrong_settings_are_named(bad):
    with pytest.raises(UserError, match="must"):
        TrainTransform(**{"size": 8, **bad})


def test_unknown_operations_are_named():
    with pytest.raises(UserError, match="Solarise"):
        RandAugment(ops=("Solarise",))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_decoding_gives_pils_pixels(kind):
    data = encoded(np.kron(IMAGE, np.ones((8, 8, 1), np.uint8)), kind)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (images.decode(data) == expected).all()


def test_grey_and_transparent_images_become_rgb():
    alpha = np.dstack([IMAGE, np.full((4, 4), 7, np.uint8)])
    assert images.decode(encoded(alpha)).tolist() == IMAGE.tolist()
    grey = images.decode(encoded(IMAGE[..., 0]))
    assert grey.shape == (4, 4, 3) and (grey == IMAGE[..., :1]).all()


def test_bad_bytes_are_refused_with_a_reason(monkeypatch):
    data = encoded(IMAGE)
    for bad in (b"", b"<html>gone</html>", data[: len(data) // 2], data[:20]):
        with pytest.raises(images.ImageError):
            images.decode(bad)
    monkeypatch.setattr(images, "MAX_PIXELS", 15)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(images.ImageError, match="4x4 pixels are more than 15"):
            images.decode(encoded(IMAGE, kind))


def test_normalisation_is_clips():
    values = images.normalize(np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    assert values.dtype == np.float32
    expected = [[-1.792263, -1.752097, -1.480220], [1.930336, 2.074884, 2.145897]]
    np.testing.assert_allclose(values, expected, atol=2e-6)
