"""How many rows the next batch of a function takes."""

from collections.abc import Sequence

_NEWEST = 0.25  # share of a batch's seconds in the running mean of its size


class BatchSizes:
    """Chooses between a batch that is padded and a smaller one that is full.

    Where a batch takes as long as a smaller one (a TPU, few rows), padding costs nothing; where
    each row takes its time (a CPU), 5 rows padded to 16 take three times as long as they need.

    Args:
      sizes: of batches that programs are compiled for.

    Attributes:
      largest: of the sizes.
    """

    def __init__(self, sizes: Sequence[int]):
        self._sizes = sorted(sizes)
        self.largest = self._sizes[-1]
        self._seconds: dict[int, float] = {}  # of a batch, the running mean by size

    def rows(self, waiting: int) -> int:
        """Returns how many of the rows that wait make the next batch: all, or a full batch.

        It is what computes more rows a second, by the batches so far; a size that was never
        computed is not chosen over one that takes more of the rows.
        """
        if waiting >= self.largest:
            return self.largest
        padded = self._padded(waiting)
        full = max((size for size in self._sizes if size <= waiting), default=0)
        if not full or full == waiting or not {padded, full} <= self._seconds.keys():
            return waiting
        is_faster = full / self._seconds[full] > waiting / self._seconds[padded]
        return full if is_faster else waiting

    def record(self, rows: int, seconds: float) -> None:
        """Takes note of a batch that was computed."""
        size = self._padded(rows)
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + _NEWEST * (seconds - known)

    def _padded(self, rows: int) -> int:
        return next(size for size in self._sizes if size >= rows)
