"""Rows in batches of few shapes, so that few programs are compiled; and images from anywhere.

B rows, S pixels a side.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import tqdm
from etils import epath
from PIL import Image

from blip_jax.data.images import ImageError, decode, resize
from blip_jax.runtime.errors import UserError

# A path (local or gs://), a file's bytes, a PIL image, or uint8 [H, W], [H, W, 3] or [H, W, 4].
ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray


def padded_batches(size: int, *arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(rows that count, slices of `size` rows); the last slice is filled up with its last row."""
    total = len(arrays[0])
    for start in range(0, total, size):
        count = min(size, total - start)
        rows = np.minimum(np.arange(start, start + size), total - 1)
        yield count, [array[rows] for array in arrays]


def run_in_batches(function: Callable, size: int, *arrays: np.ndarray, title: str = "") -> list:
    """`function` over all rows in batches; its results (arrays or tuples) put together."""
    results = []
    rows = tqdm.tqdm(total=len(arrays[0]), desc=title, disable=None if title else True, leave=False)
    for count, slices in padded_batches(size, *arrays):
        leaves = jax.tree.leaves(function(*slices))
        results.append([leaf[:count] for leaf in leaves])
        rows.update(count)
    rows.close()
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def padded_batch_size(rows: int, most: int) -> int:
    """Rows of a batch for so many rows: a power of two or `most`, a multiple of the devices.

    Raises:
      UserError: `most` is below 1.
    """
    if most < 1:
        raise UserError(f"batch_size is {most}; it must be at least 1")
    devices = jax.local_device_count()
    wanted = min(most, 1 << max(rows - 1, 0).bit_length())
    return -(-wanted // devices) * devices


def load_image(image: ImageLike) -> np.ndarray:
    """uint8 [H, W, 3].

    Raises:
      ImageError: it cannot be read, or is no picture; the message does not name it.
    """
    if isinstance(image, np.ndarray):
        return np.asarray(_picture(image).convert("RGB"))
    if isinstance(image, Image.Image):
        try:
            return np.asarray(image.convert("RGB"))
        except Exception as error:  # a file is read only here; PIL raises nearly anything
            raise ImageError(f"damaged or cut short ({type(error).__name__})") from error
    if isinstance(image, (str, os.PathLike)):
        try:
            image = epath.Path(image).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ImageError(reason.lower()) from error
    if not isinstance(image, bytes):
        raise ImageError(f"{type(image).__name__} is no path, bytes, PIL image or numpy array")
    return decode(image)


def _picture(array: np.ndarray) -> Image.Image:
    try:
        if array.dtype == np.uint8 and array.ndim in (2, 3) and array.size:
            return Image.fromarray(array)
    except (TypeError, ValueError):  # no picture's shape
        pass
    raise ImageError(
        f"an array {array.dtype} {list(array.shape)}, and not uint8 [height, width, 3]"
    )


def image_name(image: ImageLike, number: int) -> str:
    """How an error calls an image."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"number {number}"


def load_images(images: Sequence[ImageLike], size: int) -> list[np.ndarray | ImageError]:
    """Each as uint8 [S, S, 3], or why it is none; several at a time."""

    def load(image: ImageLike) -> np.ndarray | ImageError:
        try:
            return resize(load_image(image), size)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(load, images))


def loaded_batches(
    images: Sequence[ImageLike], size: int, rows: int
) -> Iterator[tuple[slice, list[np.ndarray | ImageError]]]:
    """(which images, what `load_images` gives for them), `rows` at a time; the last may be fewer.

    The next ones are read while the caller works on these.
    """
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(load_images, images[:rows], size)
        for start in range(0, len(images), rows):
            loaded, stop = coming.result(), start + rows
            coming = ahead.submit(load_images, images[stop : stop + rows], size)
            yield slice(start, start + len(loaded)), loaded


def image_batches(
    images: Sequence[ImageLike], size: int, most: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """(which images, uint8 [B, S, S, 3]) in batches of at most `most`; the last is filled up.

    The next batch is read while the caller works on this one.

    Raises:
      UserError: one does not decode; it is named.
    """
    rows = padded_batch_size(len(images), most)
    for place, loaded in loaded_batches(images, size, rows):
        for number, image in enumerate(loaded, start=place.start):
            if isinstance(image, ImageError):
                raise UserError(f"image {image_name(images[number], number)}: {image}")
        yield place, np.stack(loaded + loaded[-1:] * (rows - len(loaded)))


def as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image as a list of one; an array [B, H, W, 3] as a list of its images."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, (str, os.PathLike, bytes, Image.Image, io.IOBase)):
        return [images]
    return list(images)
