"""Rows in batches of few shapes, so that few programs are compiled; images read ahead of time.

B rows, S pixels a side.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import tqdm

from blip_jax.data.images import ImageError, resize
from blip_jax.models.inputs import ImageLike, image_name, load_clip, load_image
from blip_jax.runtime.errors import UserError

ON_ERROR = ("raise", "skip")


def padded_batches(size: int, *arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yields (rows that count, slices of `size` rows); the last slice repeats its last row."""
    total = len(arrays[0])
    for start in range(0, total, size):
        count = min(size, total - start)
        rows = np.minimum(np.arange(start, start + size), total - 1)
        yield count, [array[rows] for array in arrays]


def run_in_batches(function: Callable, size: int, *arrays: np.ndarray, title: str = "") -> list:
    """Returns the results of a function (arrays or tuples) over all rows, in batches."""
    results = []
    rows = tqdm.tqdm(total=len(arrays[0]), desc=title, disable=None if title else True, leave=False)
    for count, slices in padded_batches(size, *arrays):
        leaves = jax.tree.leaves(function(*slices))
        results.append([leaf[:count] for leaf in leaves])
        rows.update(count)
    rows.close()
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def padded_batch_size(rows: int, most: int) -> int:
    """Returns the batch size for this many rows: a power of two or `most`, whole per device.

    Raises:
      UserError: `most` is below 1.
    """
    if most < 1:
        raise UserError(f"batch_size is {most}; it must be at least 1")
    devices = jax.local_device_count()
    size = min(most, 1 << max(rows - 1, 0).bit_length())
    return -(-size // devices) * devices


def load_images(
    images: Sequence[ImageLike], size: int, exif_orientation: bool = True, num_frames: int = 0
) -> list[np.ndarray | ImageError]:
    """Returns uint8 [S, S, 3] for each image, or the error of reading it; reads in threads.

    Args:
      num_frames: F: the images are clips, and read as [F, S, S, 3]; 0: they are not.
    """

    def load(image: ImageLike) -> np.ndarray | ImageError:
        try:
            if num_frames:
                return load_clip(image, num_frames, size)
            return resize(load_image(image, exif_orientation), size)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(load, images))


def loaded_batches(
    images: Sequence[ImageLike],
    size: int,
    rows: int,
    exif_orientation: bool = True,
    num_frames: int = 0,
) -> Iterator[tuple[slice, list[np.ndarray | ImageError]]]:
    """Yields (which images, what `load_images` gives for them), `rows` at a time, or fewer at last.

    The next ones are read while the caller works on these.
    """
    settings = size, exif_orientation, num_frames
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(load_images, images[:rows], *settings)
        for start in range(0, len(images), rows):
            loaded, stop = upcoming.result(), start + rows
            following = images[stop : stop + rows]
            upcoming = reader.submit(load_images, following, *settings)
            yield slice(start, start + len(loaded)), loaded


def image_batches(
    images: Sequence[ImageLike],
    size: int,
    most: int,
    on_error: str = "raise",
    title: str = "",
    exif_orientation: bool = True,
    num_frames: int = 0,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields (which images, uint8 [B, S, S, 3], bool [rows] which could be read), `most` at most.

    Of clips they are [B, F, S, S, 3], and as many as have `most` frames.

    The last batch repeats its last image. The next batch is read while the caller works on this
    one. More than one batch shows a bar on a terminal.

    Args:
      on_error: "raise", or "skip" images that cannot be read: they are black, with a warning.

    Raises:
      UserError: an image cannot be read; it is named.
    """
    if on_error not in ON_ERROR:
        raise UserError(f"on_error is {on_error!r}; supported: {', '.join(ON_ERROR)}")
    what = "clip" if num_frames else "image"
    if num_frames:
        most = max(1, most // num_frames)
    rows = padded_batch_size(len(images), most)
    hidden = True if len(images) <= rows else None  # None: hidden unless on a terminal
    with tqdm.tqdm(total=len(images), desc=title, disable=hidden, leave=False) as bar:
        for which, loaded in loaded_batches(images, size, rows, exif_orientation, num_frames):
            valid = np.ones(len(loaded), bool)
            for index, image in enumerate(loaded):
                if isinstance(image, ImageError):
                    number = which.start + index
                    message = f"{what} {image_name(images[number], number)}: {image}"
                    if on_error == "raise":
                        raise UserError(message)
                    warnings.warn(message, stacklevel=4)
                    frames = (num_frames,) if num_frames else ()
                    loaded[index] = np.zeros((*frames, size, size, 3), np.uint8)
                    valid[index] = False
            yield which, np.stack(loaded + loaded[-1:] * (rows - len(loaded))), valid
            bar.update(len(loaded))
