"""ITM scores of pairs of images and texts: shared among devices and processes, and resumable.

P pairs, sorted by image.
"""

import time

import jax
import numpy as np
from etils import epath

from blip_jax.models import Model
from blip_jax.models.reranking import (
    context_bytes,
    context_match_function,
    image_context_function,
)
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write
from blip_jax.runtime.fingerprint import values_digest
from blip_jax.runtime.processes import all_gather
from blip_jax.runtime.progress import Progress
from blip_jax.tasks.eval_dataset import EvalDataset, local_rows
from blip_jax.tasks.image_blocks import run_by_image

PAIRS_PER_DEVICE = 128  # of a step
MAX_IMAGES_PER_DEVICE = 64  # of a block
SAVE_SECONDS = 30.0  # at least, from one storing of scores to the next
GIB = 2**30


class StoredScores:
    """Scores of pairs in a file, by which an interrupted re-ranking is resumed.

    A file of other pairs or another model is not used, and replaced.

    Args:
      path: of the file; None: nothing is stored.
      fingerprint: hash of what decides the scores.
      count: P.
    """

    def __init__(self, path: epath.Path | None, fingerprint: str, count: int):
        self._path, self._fingerprint, self._saved = path, fingerprint, time.monotonic()
        self.scores = np.full(count, np.nan, np.float32)
        if path is not None and (stored := self._read()) is not None:
            self.scores = stored

    def _read(self) -> np.ndarray | None:
        if not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                scores, made_of = stored["scores"], str(stored["fingerprint"])
        except Exception:  # NumPy raises many types for a damaged file
            return None
        usable = made_of == self._fingerprint and scores.shape == self.scores.shape
        return scores if usable and scores.dtype == np.float32 else None

    def save(self, now: bool = False) -> None:
        """Writes the file, if it is some time since it was written or `now`."""
        if self._path is None or not (now or time.monotonic() - self._saved >= SAVE_SECONDS):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path, "wb") as file:
            np.savez(file, scores=self.scores, fingerprint=np.array(self._fingerprint))
        self._saved = time.monotonic()


class PairScorer:
    """Scores pairs of the images and texts of a dataset.

    Args:
      ids, mask: of the texts, int32 and bool [texts, T].
      memory_gib: device memory for keys and values of images; at least those of one image are
        held.

    Raises:
      UserError: `memory_gib` is not above 0.
    """

    def __init__(
        self, model: Model, dataset: EvalDataset, ids: np.ndarray, mask: np.ndarray,
        memory_gib: float,
    ):  # fmt: skip
        if not memory_gib > 0:
            raise UserError(f"task.rerank_memory_gib is {memory_gib}; it must be above 0")
        self._model, self._dataset, self._texts = model, dataset, (ids, mask)
        self._encode, self._match = image_context_function(model), context_match_function(model)
        num_frames = dataset.pixels.num_frames or 1
        fit = int(memory_gib * GIB / context_bytes(model.config, num_frames))
        self._images_per_device = min(max(fit, 1), MAX_IMAGES_PER_DEVICE)

    def __call__(
        self, image_index: np.ndarray, text_index: np.ndarray, name: str = "rerank"
    ) -> np.ndarray:
        """Returns ITM's match logits, float32 [P], on all processes; each computes its part.

        With `dataset.unfinished` a process stores its scores there, in a file of this name, and
        continues with the scores that are there already.

        Args:
          image_index, text_index: int [P], rows of the dataset's images and of the texts, sorted
            by image.
        """
        total, processes = len(image_index), jax.process_count()
        rows = local_rows(total)
        path = None
        if self._dataset.unfinished:
            part = f"{name}-{jax.process_index()}-of-{processes}.npz"
            path = epath.Path(self._dataset.unfinished) / part
        # The model and the dataset are those of the folder.
        settings = [jax.local_device_count(), PAIRS_PER_DEVICE, self._images_per_device]
        made_of = values_digest(settings, image_index, text_index, *self._texts)
        stored = StoredScores(path, made_of, len(rows))
        self._score(image_index[rows], text_index[rows], stored)
        return np.concatenate(all_gather(stored.scores))[:total]

    def _score(self, image_index: np.ndarray, text_index: np.ndarray, stored: StoredScores):
        """Fills in the scores that `stored` lacks, block by block."""
        scores = stored.scores
        done = int((~np.isnan(scores)).sum())
        shown = jax.process_index() == 0
        with Progress("re-ranking", len(scores), "pair", done, enabled=shown) as progress:
            found = run_by_image(
                self._encode,
                self._match,
                self._dataset.images,
                image_index,
                [array[text_index] for array in self._texts],
                most=(self._images_per_device, PAIRS_PER_DEVICE),
                is_done=lambda pairs: not np.isnan(scores[pairs]).any(),
            )
            for pairs, (logits,) in found:
                scores[pairs] = logits
                progress.update(len(pairs))
                stored.save()
            if done < len(scores):
                stored.save(now=True)
