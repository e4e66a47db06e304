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
from blip_jax.errors import UserError

# A path (local or gs://), a file's bytes, a PIL image, or uint8 [H, W], [H, W, 3] or [H, W, 4].
ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray


def padded_batches(size: int, *arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(rows that count, slices of `size` rows); the last slice is filled up with its last row."""
    total = len(arrays[0])
    for start in range(0, total, size):
        count = min(size, total - start)
        rows = np.minimum(np.arange(start, start + size), total - 1)
        yield count, [array[rows] for array in arrays]


def mapped(function: Callable, size: int, *arrays: np.ndarray, title: str = "") -> list:
    """`function` over all rows in batches; its results (arrays or tuples) put together."""
    results = []
    rows = tqdm.tqdm(total=len(arrays[0]), desc=title, disable=None if title else True, leave=False)
    for count, slices in padded_batches(size, *arrays):
        leaves = jax.tree.leaves(function(*slices))
        results.append([leaf[:count] for leaf in leaves])
        rows.update(count)
    rows.close()
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def batch_rows(rows: int, most: int) -> int:
    """Rows of a batch for so many rows: a power of two or `most`, a multiple of the devices."""
    devices = jax.local_device_count()
    wanted = min(most, 1 << max(rows - 1, 0).bit_length())
    return -(-wanted // devices) * devices


def load_image(image: ImageLike) -> np.ndarray:
    """uint8 [H, W, 3].

    Raises:
      ImageError: it cannot be read, or is no picture; the message does not name it.
    """
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ImageError(
                f"an array {image.dtype} {list(image.shape)}, and not uint8 [height, width, 3]"
            )
        return np.asarray(Image.fromarray(image).convert("RGB"))
    if not isinstance(image, bytes):
        try:
            image = epath.Path(image).read_bytes()
        except (OSError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ImageError(reason.lower()) from error
    return decode(image)


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


def image_batches(
    images: Sequence[ImageLike], size: int, most: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """(which images, uint8 [B, S, S, 3]) in batches of at most `most`; the last is filled up.

    The next batch is read while the caller works on this one.

    Raises:
      UserError: one does not decode; it is named.
    """

    def read(start: int) -> np.ndarray:
        loaded = load_images(images[start : start + rows], size)
        for number, image in enumerate(loaded, start=start):
            if isinstance(image, ImageError):
                raise UserError(f"image {image_name(images[number], number)}: {image}")
        return np.stack(loaded + loaded[-1:] * (rows - len(loaded)))

    total = len(images)
    rows = batch_rows(total, most)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(read, 0) if total else None
        for start in range(0, total, rows):
            batch = coming.result()
            if start + rows < total:
                coming = ahead.submit(read, start + rows)
            yield slice(start, min(start + rows, total)), batch


def as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image as a list of one; an array [B, H, W, 3] as a list of its images."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, (str, os.PathLike, bytes, Image.Image, io.IOBase)):
        return [images]
    return list(images)
