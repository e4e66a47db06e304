"""Image bytes to arrays: decode, resize, normalise.

Axes: H height, W width, S side; channels are red, green, blue and come last.
"""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image

# CLIP's statistics, which the original always uses, for values from 0 to 1.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
MAX_PIXELS = 100_000_000

# The formats and modes that OpenCV decodes to PIL's pixels, in less time.
_FAST = {"JPEG": ("RGB", "L"), "MPO": ("RGB", "L"), "WEBP": ("RGB", "RGBA"), "BMP": ("RGB",)}
_ORIENTATION = 0x0112  # the EXIF tag
# What makes a picture upright that was stored with an orientation of the EXIF standard.
_UPRIGHT = {
    2: lambda x: cv2.flip(x, 1),
    3: lambda x: cv2.rotate(x, cv2.ROTATE_180),
    4: lambda x: cv2.flip(x, 0),
    5: cv2.transpose,
    6: lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE),
    7: lambda x: cv2.transpose(cv2.rotate(x, cv2.ROTATE_180)),
    8: lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # chunks that may hold EXIF
_JPEG = b"\xff\xd8\xff"
# Least lengths of segments of a JPEG's header: tables of Huffman codes, restart interval, JFIF,
# color profile, Adobe's, comment.
_JPEG_PLAIN = {0xC4: 2, 0xDD: 4, 0xE0: 16, 0xE2: 20, 0xEE: 14, 0xFE: 2}
_HEIC = re.compile(rb"....ftyp(hei[cfsxmv]|hev[cx]|mif1|msf1)", re.DOTALL)

# Grain's threads already run in parallel, and OpenCV's thread pool would compete with them. Images
# that cannot be decoded are reported by the callers, so OpenCV need not write to stderr.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(0)


class ImageError(ValueError):
    """The bytes are not a complete image; the message says why in a few words."""


def decode(data: bytes, exif_orientation: bool = True) -> np.ndarray:
    """Returns the picture, uint8 [H, W, 3].

    The pixels are those of `from_pil`; ordinary JPEG, PNG, WebP and BMP are decoded by OpenCV,
    which gives the same in less time.

    Args:
      data: a file's content, of any format PIL knows.
      exif_orientation: turn the picture upright; False: as stored, as the original does.

    Raises:
      ImageError: it is empty, damaged, truncated, not an image, or larger than MAX_PIXELS by its
        header (so that a decompression bomb is never decoded).
    """
    if not data:
        raise ImageError("no bytes")
    if size := _plain_size(data):  # three times faster than PIL
        _check_size(*size)
        image, fast, orientation = None, True, 1
    else:
        image = _open(data)
        _check_size(*image.size)
        fast = image.mode in _FAST.get(image.format, ())
        orientation = _orientation(image) if fast and exif_orientation else 1
    picture = None
    if fast:
        picture = decode_opencv(data, cv2.IMREAD_COLOR_RGB)
    if picture is None:  # another format or mode, or damaged, which PIL decides
        return from_pil(_open(data) if image is None else image, exif_orientation)
    return _upright(picture, orientation)


def decode_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """Returns the pixels as stored, by OpenCV's flags; None if it cannot decode them.

    Raises:
      ImageError: it cannot decode them, and says why.
    """
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except Exception as error:
        raise _damaged(error) from error


def from_pil(image: Image.Image, exif_orientation: bool = True) -> np.ndarray:
    """Returns the pixels of a PIL image, uint8 [H, W, 3].

    They are those of its convert("RGB"), which the original uses (transparency is dropped), but for
    images of more than 8 bits, which that would clip to white: of 16 bits the higher 8 are taken,
    and floats from 0 to 1 are scaled to 255.

    Raises:
      ImageError: it is damaged or truncated, has more than MAX_PIXELS, or has values of no known
        range.
    """
    _check_size(*image.size)
    try:
        image.load()
        orientation = _orientation(image) if exif_orientation else 1
        deep = image.mode[:1] in "IF"
        pixels = np.asarray(image if deep else image.convert("RGB"))
    except Exception as error:  # PIL raises many types
        raise _damaged(error) from error
    if deep:
        pixels = np.repeat(_eight_bits(pixels)[..., None], 3, axis=2)
    return _upright(pixels, orientation)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Returns numbers of 16 or 32 bits, [H, W], as uint8."""
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not (0 <= low and high <= 255):  # also where one is NaN
            raise ImageError(f"its float pixels are from {low:.3g} to {high:.3g}; scale to 0..1")
        return np.round(pixels * (255 if high <= 1 else 1)).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ImageError(f"its whole numbers are from {low} to {high}; give 8 or 16 bits")
    is_byte = pixels.dtype.itemsize > 2 and high <= 255
    return (pixels if is_byte else pixels >> 8).astype(np.uint8)


def _plain_size(data: bytes) -> tuple[int, int] | None:
    """Returns width and height of an ordinary PNG or JPEG; None: PIL must read its header."""
    if data.startswith(_PNG):
        return _plain_png_size(data)
    return plain_jpeg_size(data) if data.startswith(_JPEG) else None


def _plain_png_size(data: bytes) -> tuple[int, int] | None:
    """Returns the size of a PNG of at most 8 bits, or of color, that holds no EXIF."""
    if len(data) < 26 or any(name in data for name in _PNG_EXIF):
        return None
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    return (width, height) if depth <= 8 or color in (2, 6) else None


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns the size of a grey or RGB JPEG of 8 bits, with nothing in its header but tables,
    comments and color profile: no EXIF, and nothing that PIL might refuse."""
    size, start = None, 2
    while start + 4 <= len(data):
        head, marker, length = struct.unpack_from(">BBH", data, start)
        begin, start = start + 4, start + 2 + length  # of the segment's content, and its end
        if head != 0xFF or start > len(data):
            return None
        if marker == 0xDA:  # the picture begins
            return size
        if marker in (0xC0, 0xC2) and length >= 8 and size is None:  # baseline, progressive
            depth, height, width, channels = struct.unpack_from(">BHHB", data, begin)
            size = width, height
            if depth != 8 or channels not in (1, 3) or not 0 < width * height <= MAX_PIXELS:
                return None
        elif marker == 0xDB:  # quantization tables of 8 bits
            if (length - 2) % 65 or any(byte >> 4 for byte in data[begin:start:65]):
                return None
        elif length < _JPEG_PLAIN.get(marker, 1 << 16) or (
            marker == 0xE2 and not data.startswith(b"ICC_PROFILE\0", begin)
        ):
            return None
    return None


def _open(data: bytes) -> Image.Image:
    """Returns the image, of which only the header is read."""
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:  # its message has the size, but not the sides
        count = int(next(iter(re.findall(r"\d+", str(error))), 2 * MAX_PIXELS))
        raise ImageError(f"{count} pixels are more than {MAX_PIXELS}") from error
    except Exception as error:  # PIL raises many types of errors on damaged files
        if _HEIC.match(data):
            raise ImageError("HEIC is not supported; convert it to JPEG") from error
        raise ImageError("not an image PIL can identify") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than {MAX_PIXELS}")


def _damaged(error: Exception) -> ImageError:
    return ImageError(f"damaged or truncated ({type(error).__name__})")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 … 8; 1, which is upright, also where EXIF is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture is not lost by what is written about it
        return 1
    return found if isinstance(found, int) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else turn(pixels)


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


def limit_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the image, uint8 [H, W, 3], with its shorter side reduced to at most `side` pixels.

    Its shape stays, as nearly as whole pixels allow. Filtered as in `resize`.
    """
    height, width = image.shape[:2]
    if min(height, width) <= side:
        return image
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def normalize(images):
    """Returns float32 [..., 3]: scaled to 0..1, less MEAN, by STD.

    Args:
      images: uint8 [..., 3], numpy or JAX (the result is of the same kind; under jit, too).
    """
    return (images.astype(np.float32) / np.float32(255) - MEAN) / STD
