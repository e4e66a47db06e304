"""Work on pairs of an image and a text in blocks of images: each image is encoded once.

P pairs, sorted by image; blocks of images; rows of one image with G of its texts; D local devices,
b images of a block and r rows of a step on each.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

MAX_TEXTS_PER_ROW = 32


@dataclasses.dataclass(frozen=True)
class Block:
    """Some images, and where their pairs are computed.

    Attributes:
      images: int [D * b], rows of the images in the order of the devices; repeats fill up.
      places: int32 [D, R], the place among the b images of its device of each row.
      pairs: int [D, R, G], indices of the pairs of each row; -1: none.
    """

    images: np.ndarray
    places: np.ndarray
    pairs: np.ndarray


def plan_blocks(
    image_index: np.ndarray, devices: int, images_per_device: int, rows_per_step: int, texts: int
) -> Iterator[Block]:
    """Yields blocks of consecutive images that hold all pairs once.

    Rows are dealt out so that the devices have nearly equal numbers of them.

    Args:
      image_index: int [P], sorted: the image of each pair.
      rows_per_step: the number of rows of a device is a multiple of this.
      texts: G.
    """
    images, starts, counts = np.unique(image_index, return_index=True, return_counts=True)
    size = devices * images_per_device
    for first in range(0, len(images), size):
        chosen = slice(first, first + size)
        rows = -(-counts[chosen] // texts)
        device_of, place_of = _deal_out(rows, devices, images_per_device)
        most = max(np.bincount(device_of, rows, devices).astype(int).max(), 1)
        most = -(-most // rows_per_step) * rows_per_step
        order = np.full((devices, images_per_device), images[chosen][0])
        order[device_of, place_of] = images[chosen]
        places = np.zeros((devices, most), np.int32)
        pairs = np.full((devices, most, texts), -1)
        filled = np.zeros(devices, int)
        for number, (device, place) in enumerate(zip(device_of, place_of, strict=True)):
            here = slice(filled[device], filled[device] + rows[number])
            filled[device] += rows[number]
            places[device, here] = place
            own = starts[chosen][number] + np.arange(rows[number] * texts)
            own[counts[chosen][number] :] = -1
            pairs[device, here] = own.reshape(-1, texts)
        yield Block(order.ravel(), places, pairs)


def _deal_out(rows: np.ndarray, devices: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the device of each image, and its place there: the largest first, to the emptiest."""
    device_of, place_of = np.zeros(len(rows), int), np.zeros(len(rows), int)
    load, count = np.zeros(devices), np.zeros(devices, int)
    for image in np.argsort(-rows, kind="stable"):
        device = int(np.argmin(np.where(count < most, load, np.inf)))
        device_of[image], place_of[image] = device, count[device]
        load[device] += rows[image]
        count[device] += 1
    return device_of, place_of


def run_by_image(
    encode: Callable,
    function: Callable,
    images: Any,
    image_index: np.ndarray,
    arrays: Sequence[np.ndarray],
    most: tuple[int, int],
    is_done: Callable[[np.ndarray], bool] = lambda pairs: False,
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yields for each block its pairs, int [p], and the results of a function for them, [p, ...].

    Shapes are the same in all blocks, so that each of the two functions is compiled once.

    Args:
      encode: from images uint8 [D * b, S, S, 3] to what stays on the devices.
      function: from that, the place of each row's image among the b of its device, int32 [D, r],
        and the rows of the arrays, [D, r, G, ...], to a tree of arrays
        [D, r * G, ...] on the devices. Nothing waits for it.
      images: uint8 [N, S, S, 3], indexed by an array of rows.
      image_index: int [P], sorted: the image of each pair.
      arrays: [P, ...], of the texts.
      most: the most images of a block, and texts of a step, of a device.
      is_done: whether the pairs of a block need not be computed.
    """
    devices, count = jax.local_device_count(), len(np.unique(image_index))
    texts = min(texts_per_row(len(image_index), count), most[1])
    images_per_device, rows = min(most[0], -(-count // devices)), most[1] // texts
    for block in plan_blocks(image_index, devices, images_per_device, rows, texts):
        if is_done(block.pairs[block.pairs >= 0]):
            continue
        encoded, steps = encode(images[block.images]), []
        for start in range(0, block.places.shape[1], rows):
            here = slice(start, start + rows)
            pairs = block.pairs[:, here]
            read = (array[np.maximum(pairs, 0)] for array in arrays)
            steps.append((pairs, function(encoded, block.places[:, here], *read)))
        found = []
        for pairs, results in steps:  # all are under way by now
            pairs, leaves = pairs.ravel(), jax.tree.leaves(jax.device_get(results))
            flat = (x.reshape(len(pairs), *x.shape[2:]) for x in leaves)
            found.append([x[pairs >= 0] for x in (pairs, *flat)])
        pairs, *results = (np.concatenate(parts) for parts in zip(*found, strict=True))
        yield pairs, results


def texts_per_row(pairs: int, images: int) -> int:
    """Returns G: a power of two, a quarter of an image's pairs at most, so that few places stay
    empty."""
    most = max(pairs // (4 * max(images, 1)), 1)
    return min(1 << (most.bit_length() - 1), MAX_TEXTS_PER_ROW)
