"""Pixels are PIL's and upright, by path, bytes and PIL object."""

import io
import warnings

import numpy as np
import pytest
import tiny
import tiny_dataset
from malformed_files import encoded, jpeg, picture
from PIL import Image, ImageOps

from blip_jax.data import images
from blip_jax.data.images import ImageError, decode, from_pil
from blip_jax.data.pipeline import eval_batches
from blip_jax.models import Model
from blip_jax.models.inputs import load_image

ROTATE = 6  # the EXIF orientation of a phone held upright


def rotated(format: str = "JPEG", orientation: int = ROTATE, seed: int = 0) -> bytes:
    """A picture 48 wide and 40 high as stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(seed), format, exif=exif)


def every_way(data: bytes, folder, exif_orientation: bool = True) -> np.ndarray:
    """The pixels, which are the same by bytes, path, open file and PIL object."""
    found = decode(data, exif_orientation)
    path = folder / "image"
    path.write_bytes(data)
    for image in (str(path), io.BytesIO(data), Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(load_image(image, exif_orientation), found)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    return found


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_images_are_upright_unless_the_original_is_wanted(format, tmp_path):
    for orientation in range(1, 9):
        data = rotated(format, orientation)
        image = Image.open(io.BytesIO(data))
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(every_way(data, tmp_path), want)
        assert want.shape == ((40, 48, 3) if orientation < 5 else (48, 40, 3))
        stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(every_way(data, tmp_path, False), stored)


def test_a_picture_is_not_lost_by_damaged_exif(tmp_path):
    for exif in (b"Exif\0\0MM", b"Exif\0\0" + b"\xff" * 40, b"\xff" * 9):
        data = encoded(picture(0), "JPEG", exif=exif)
        np.testing.assert_array_equal(every_way(data, tmp_path), decode(jpeg_as(data)))


def jpeg_as(data: bytes) -> bytes:
    """The same pixels without EXIF: the segment APP1 is taken out."""
    start = data.index(b"\xff\xe1")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def test_every_path_turns_images_and_the_quirk_ignores_exif(tmp_path):
    records = [
        {"key": str(n), "image": rotated(seed=n), "texts": ["a dog"], "truth": ""} for n in range(2)
    ]
    data = tiny_dataset.write(str(tmp_path / "photos"), records)
    (upright,) = eval_batches(data, "train", 2, 16)
    (stored,) = eval_batches(data, "train", 2, 16, exif_orientation=False)
    config = tiny.config()
    for quirks, batch in (((), upright), (("ignore_exif",), stored)):
        own = tiny.config(quirks=quirks)
        assert own.exif_orientation == (not quirks)
        model = Model({}, own, "")
        images = [record["image"] for record in records]
        ((_, pixels, _),) = model._image_batches(images, 2, "raise", "")
        np.testing.assert_array_equal(pixels[:2], batch["image"])
    assert (upright["image"] != stored["image"]).any() and config.exif_orientation


def test_sixteen_bits_give_their_higher_eight(tmp_path):
    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    want = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)
    for format in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(deep), format)
        np.testing.assert_array_equal(every_way(data, tmp_path), want)
    pgm = b"P5 64 64 65535\n" + deep.astype(">u2").tobytes()
    np.testing.assert_array_equal(every_way(pgm, tmp_path), want)
    np.testing.assert_array_equal(from_pil(Image.fromarray(deep.astype(np.int32))), want)
    small = np.arange(256, dtype=np.int32).reshape(16, 16)  # 8 bits, stored as 32
    np.testing.assert_array_equal(from_pil(Image.fromarray(small))[..., 0], small)
    with pytest.raises(ImageError, match="its whole numbers are from -1 to 254; give 8 or 16"):
        from_pil(Image.fromarray(small - 1))


def test_floats_are_scaled_from_0_to_1_or_taken_up_to_255(tmp_path):
    numbers = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    want = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for scale in (1, 255):
        data = encoded(Image.fromarray(numbers * np.float32(scale)), "TIFF")
        np.testing.assert_array_equal(every_way(data, tmp_path)[..., 1], want)
    numbers[3, 3] = np.nan
    for bad in (numbers, np.full((4, 4), 300, np.float32)):
        with pytest.raises(ImageError, match="its float pixels are from .*; scale to 0..1"):
            from_pil(Image.fromarray(bad))


def test_transparency_lab_and_cmyk_are_pils(tmp_path):
    paletted = picture(1).quantize(8)
    gif = encoded(paletted, "GIF", transparency=3)
    for data in (gif, encoded(picture(2).convert("CMYK"), "JPEG"), lab(), encoded_rgba()):
        want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(every_way(data, tmp_path), want)


def lab() -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    return encoded(Image.frombytes("LAB", (9, 8), values.tobytes()), "TIFF")


def encoded_rgba() -> bytes:
    image = picture(3).convert("RGBA")
    image.putalpha(100)
    return encoded(image, "PNG")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((12000, 9000), "12000x9000 pixels are more than 100000000"),
        ((16320, 12240), "199756800 pixels are more than 100000000"),
    ],
)
def test_a_large_picture_is_refused_by_its_size(size, message):
    data = encoded(Image.new("L", size), "JPEG")
    with pytest.raises(ImageError, match=f"^{message}$"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decode(data)
    with pytest.raises(ImageError, match="pixels are more than 100000000$"):
        from_pil(Image.new("L", size))


def test_heic_is_named():
    with pytest.raises(ImageError, match="^HEIC is not supported; convert it to JPEG$"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="^not a regular file$"):
        load_image(tmp_path / "a.jpg")
    assert decode(jpeg(0)).shape == (40, 48, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"by hand"}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_header_of_an_ordinary_jpeg_is_read_without_pil(options, mode, monkeypatch):
    data = encoded(picture(0).convert(mode), **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert images.plain_jpeg_size(data) == (48, 40)
    monkeypatch.setattr(images, "_open", None)
    np.testing.assert_array_equal(decode(data), expected)


def test_the_header_of_other_jpegs_is_left_to_pil():
    plain = encoded(picture(0))
    table = plain.index(b"\xff\xdb")
    of_16_bits = plain[: table + 4] + bytes([plain[table + 4] | 0x10]) + plain[table + 5 :]
    without_a_picture = plain[: plain.index(b"\xff\xda")]
    for data in (
        rotated(), encoded(picture(0).convert("CMYK")), of_16_bits, without_a_picture, plain[:4],
        plain.replace(b"\xff\xe0\x00\x10", b"\xff\xe0\x00\x04"),
    ):  # fmt: skip
        assert images.plain_jpeg_size(data) is None
