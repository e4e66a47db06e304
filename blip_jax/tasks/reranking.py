"""ITM scores of pairs of images and texts: shared among devices and processes, and resumable.

P pairs, sorted by image.
"""

import numpy as np

from blip_jax.models import Model
from blip_jax.models.reranking import (
    context_bytes,
    context_match_function,
    image_context_function,
)
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import values_digest
from blip_jax.tasks.eval_dataset import EvalDataset, RowsOf

PAIRS_PER_DEVICE = 128  # of a step
MAX_IMAGES_PER_DEVICE = 64  # of a block
GIB = 2**30


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

    def __call__(self, image_index: np.ndarray, text_index: np.ndarray) -> np.ndarray:
        """Returns ITM's match logits, float32 [P], on all processes; each computes its part.

        Args:
          image_index, text_index: int [P], rows of the dataset's images and of the texts, sorted
            by image.
        """
        texts = [RowsOf(array, text_index) for array in self._texts]
        (scores,) = self._dataset.share_by_image(
            self._encode, self._match, image_index, *texts, title="pairs",
            most=(self._images_per_device, PAIRS_PER_DEVICE),
            settings=values_digest([], text_index, *self._texts),
        )  # fmt: skip
        return scores
