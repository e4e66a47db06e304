"""What an evaluation has computed so far, in files by which it is resumed after an interruption.

R rows: images, questions about them, or pairs of an image and a text.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from blip_jax.runtime.files import atomic_write
from blip_jax.runtime.fingerprint import values_digest

SAVE_SECONDS = 30.0  # at least, from one storing of results to the next


class StoredResults:
    """Results of R rows, which are stored in a file from time to time.

    A damaged file, or one of other work, is not used, and replaced.

    Args:
      path: of the file; None: nothing is stored.
      fingerprint: hash of what decides the results.
      count: R.

    Attributes:
      done: bool [R], the rows that have results.
      arrays: the results, [R, ...] each; none before the first are added.
    """

    def __init__(self, path: epath.Path | None, fingerprint: str, count: int):
        self._path, self._fingerprint, self._saved = path, fingerprint, time.monotonic()
        self.done = np.zeros(count, bool)
        self.arrays: list[np.ndarray] = []
        if path is not None and path.exists():
            self._read()

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = [stored[f"result_{number}"] for number in range(len(stored.files) - 2)]
                done, made_of = stored["done"], str(stored["made_of"])
        except Exception:  # NumPy raises many types for a damaged file
            return
        fits = made_of == self._made_of(arrays) and done.dtype == bool
        if fits and all(x.shape[:1] == self.done.shape for x in (done, *arrays)):
            self.done, self.arrays = done, arrays

    def _made_of(self, arrays: Sequence[np.ndarray]) -> str:
        return " ".join([self._fingerprint, *(x.dtype.str for x in arrays)])

    def add(self, rows: np.ndarray, results: Sequence[np.ndarray]) -> None:
        """Adds the results of some rows."""
        if not self.arrays:
            self.arrays = [np.zeros((len(self.done), *x.shape[1:]), x.dtype) for x in results]
        for array, result in zip(self.arrays, results, strict=True):
            array[rows] = result
        self.done[rows] = True

    def save(self, now: bool = False) -> None:
        """Writes the file, if it is some time since it was written or `now`."""
        if self._path is None or not (now or time.monotonic() - self._saved >= SAVE_SECONDS):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        results = {f"result_{number}": array for number, array in enumerate(self.arrays)}
        with atomic_write(self._path, "wb") as file:
            np.savez(file, done=self.done, made_of=np.array(self._made_of(self.arrays)), **results)
        self._saved = time.monotonic()


class UnfinishedWork:
    """The stored results of an evaluation, of which each piece of work has a file a process.

    Pieces of work are told apart by their order, which must be the same in the call that resumes.

    Args:
      folder: of the files, for this model, dataset and config alone; "": nothing is stored.
    """

    def __init__(self, folder: str = ""):
        self._folder, self._number = folder, 0

    def results(self, count: int, settings: Any, *arrays: np.ndarray) -> StoredResults:
        """Returns the results of the next piece of work, R rows; with those stored before.

        Args:
          settings, arrays: what decides the results besides model, dataset and config, as in
            `values_digest`.
        """
        if not self._folder:
            return StoredResults(None, "", count)
        name = f"{self._number:05d}-{jax.process_index()}-of-{jax.process_count()}.npz"
        self._number += 1
        made_of = values_digest([jax.local_device_count(), settings], *arrays)
        return StoredResults(epath.Path(self._folder) / name, made_of, count)
