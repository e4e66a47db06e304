"""ITM scores of pairs of images and texts: shared among devices and processes, and resumable.

P pairs, sorted by image; blocks of images; rows of one image with G of its texts; D local devices.
"""

import dataclasses
import time
from collections.abc import Iterator

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
from blip_jax.tasks.eval_dataset import EvalDataset

PAIRS_PER_DEVICE = 128  # of a step
MAX_TEXTS_PER_ROW = 32
MAX_IMAGES_PER_DEVICE = 64  # of a block
SAVE_SECONDS = 30.0  # at least, from one storing of scores to the next
GIB = 2**30


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
        local = -(-total // processes)
        rows = np.minimum(np.arange(local) + jax.process_index() * local, total - 1)
        path = None
        if self._dataset.unfinished:
            part = f"{name}-{jax.process_index()}-of-{processes}.npz"
            path = epath.Path(self._dataset.unfinished) / part
        # The model and the dataset are those of the folder.
        settings = [jax.local_device_count(), PAIRS_PER_DEVICE, self._images_per_device]
        made_of = values_digest(settings, image_index, text_index, *self._texts)
        stored = StoredScores(path, made_of, local)
        self._score(image_index[rows], text_index[rows], stored)
        return np.concatenate(all_gather(stored.scores))[:total]

    def _score(self, image_index: np.ndarray, text_index: np.ndarray, stored: StoredScores):
        """Fills in the scores that `stored` lacks, block by block."""
        devices, images = jax.local_device_count(), len(np.unique(image_index))
        texts = texts_per_row(len(image_index), images)
        rows = PAIRS_PER_DEVICE // texts
        per_device = min(self._images_per_device, -(-images // devices))
        scores, ids, mask = stored.scores, *self._texts
        done = int((~np.isnan(scores)).sum())
        shown = jax.process_index() == 0
        with Progress("re-ranking", len(scores), "pair", done, enabled=shown) as progress:
            for block in plan_blocks(image_index, devices, per_device, rows, texts):
                wanted = block.pairs[block.pairs >= 0]
                if not np.isnan(scores[wanted]).any():
                    continue
                contexts, steps = self._encode(self._dataset.images[block.images]), []
                for start in range(0, block.places.shape[1], rows):
                    here = slice(start, start + rows)
                    pairs = block.pairs[:, here]
                    text = text_index[np.maximum(pairs, 0)]
                    logits = self._match(contexts, block.places[:, here], ids[text], mask[text])
                    steps.append((pairs, logits))
                for pairs, logits in steps:  # all are under way by now
                    is_pair = pairs >= 0
                    scores[pairs[is_pair]] = np.asarray(logits)[is_pair]
                    progress.update(int(is_pair.sum()))
                stored.save()
            if done < len(scores):
                stored.save(now=True)


def texts_per_row(pairs: int, images: int) -> int:
    """Returns G: a power of two, a quarter of an image's pairs at most, so that few places stay
    empty."""
    most = max(pairs // (4 * max(images, 1)), 1)
    return min(1 << (most.bit_length() - 1), MAX_TEXTS_PER_ROW)
