"""Video-text retrieval (MSRVTT), evaluated with a model of images as it is.

Recipe: configs/retrieval_msrvtt.yaml and eval_retrieval_video.py of the original.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from blip_jax.models import Model
from blip_jax.runtime.arguments import NonNegative, Positive
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import EvaluationTask, Prediction, TaskConfig
from blip_jax.tasks.details import Details, match_details
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.retrieval import evaluate_matches, predict_matches


@dataclasses.dataclass(frozen=True)
class VideoRetrievalConfig(TaskConfig):
    """Clips and their texts found by ITC, then by ITM among ITC's best candidates."""

    model_type: ClassVar[str] = "retrieval"

    max_length: Positive = 35  # tokens of a text; longer texts are truncated
    num_frames: Positive = 8  # frames of a clip, evenly spaced in time
    rerank_k: NonNegative = 128  # candidates per query that ITM scores; 0: ITC alone
    rerank_memory_gib: float = 1.0  # GiB of a device for keys and values of clips in re-ranking
    gallery_size: NonNegative = 0  # clips per gallery; 0: one gallery of all clips

    def make(self, model, tokenizer, mesh=None, augment=None) -> "VideoRetrieval":
        """Raises a UserError if there is a mesh, as to train."""
        if mesh is not None:
            raise UserError(
                "video retrieval is evaluated with a model of images and not trained; train one "
                "with --config retrieval"
            )
        return VideoRetrieval(self)


class VideoRetrieval(EvaluationTask):
    """Predicts which texts belong to a clip, and the reverse."""

    primary_metric = "itc/r@1"

    def __init__(self, config: VideoRetrievalConfig):
        self.config = config

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns one prediction per query; see `predict_matches`.

        Raises:
          UserError: the dataset has no clips or no texts, or the model cannot match.
        """
        dataset.check_clips()
        return predict_matches(model, dataset, self.config)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns recall as `evaluate_matches`, and median ranks, of which 1 is the best.

        `itc/tr_median_rank` is that of the texts of a clip, `itc/ir_median_rank` of the clip of a
        text; `itm/…` the same after ITM has re-ranked. Galleries count together.
        """
        metrics: dict[str, float] = dict(evaluate_matches(predictions))
        queries = [p for p in predictions if "direction" in p]
        for head in sorted({name.partition("/")[0] for name in metrics}):
            for name, direction in (("tr", "i2t"), ("ir", "t2i")):
                ranks = [p[head].get("rank") for p in queries if p["direction"] == direction]
                if ranks and all(isinstance(rank, int | float) for rank in ranks):
                    metrics[f"{head}/{name}_median_rank"] = float(np.median(ranks))
        return metrics

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction; see `match_details`."""
        return match_details(predictions, records)
