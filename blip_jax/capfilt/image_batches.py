"""Batches of decoded images for CapFilt, read ahead by threads, and the time spent on waiting."""

import os
import time
from collections.abc import Callable, Iterator

import grain
import numpy as np

from blip_jax.capfilt.inputs import CapFiltInput
from blip_jax.data.images import ImageError, decode, limit_shorter_side, resize

AHEAD = 4  # batches that are read ahead of the devices


def batches(
    source: CapFiltInput,
    rows: range,
    size: int,
    sides: set[int],
    exif_orientation: bool,
    picture_side: int | None = None,
) -> Iterator[list[dict]]:
    """Yields batches of examples (`generate.BatchInFlight`) of the rows, read ahead by threads.

    Args:
      size: examples in a batch.
      sides: of the square images that models need.
      exif_orientation: turn images upright.
      picture_side: shorter side of 'picture' at most, 0: any; None: without 'picture'.
    """

    def load(row: int) -> dict:
        record = source[row]
        try:
            image = decode(record["image"], exif_orientation)
            pixels = {side: resize(image, side) for side in sides}
            found = {**record, "image": pixels, "status": "ok"}
            if picture_side is not None:
                limited = limit_shorter_side(image, picture_side) if picture_side else image
                found["picture"] = limited
            return found
        except ImageError as error:
            blank = {side: np.zeros((side, side, 3), np.uint8) for side in sides}
            return {**record, "image": blank, "status": f"undecodable image: {error}"}

    threads = max(2, (os.cpu_count() or 2) - 1)
    loaded = grain.MapDataset.source(rows).map(load)
    # Reads ahead by example instead of by batch, so that several threads work on one batch.
    examples = iter(loaded.to_iter_dataset(grain.ReadOptions(threads, AHEAD * size)))
    for start in range(0, len(rows), size):
        yield [next(examples) for _ in range(min(size, len(rows) - start))]


class InputWaitTimer:
    """Measures seconds in all and seconds spent waiting for the next batch."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._started, self._waited = now, now(), 0.0

    def track(self, batches: Iterator[list[dict]]) -> Iterator[list[dict]]:
        while True:
            started = self._now()
            batch = next(batches, None)
            self._waited += self._now() - started
            if batch is None:
                return
            yield batch

    def seconds(self) -> dict[str, float]:
        seconds = self._now() - self._started
        return {"seconds": round(seconds, 2), "input_wait_seconds": round(self._waited, 2)}
