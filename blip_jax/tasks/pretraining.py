"""Pre-training: ITC, ITM and LM together.

Recipe: paper, section 4.1; configs/pretrain.yaml of the original.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from blip_jax.decoding import Decoding
from blip_jax.models import Model
from blip_jax.runtime.arguments import NonNegative, Positive
from blip_jax.tasks.base import Prediction, TaskConfig
from blip_jax.tasks.captioning import (
    GREEDY,
    check_caption_metrics,
    evaluate_captions,
    predict_captions,
)
from blip_jax.tasks.details import Details, caption_details, match_details
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.pairs import ItcConfig, ItmConfig, LmConfig, PairTask
from blip_jax.tasks.retrieval import evaluate_matches, predict_matches


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(TaskConfig):
    """The three objectives; None in a config file leaves one out.

    Alpha rises over two epochs of 14M pairs; hard negatives are drawn among the 90 pairs that a
    chip of 32 has.
    """

    model_type: ClassVar[str] = "pretrain"

    max_length: Positive = 30  # tokens of a text; longer texts are truncated
    itc: ItcConfig | None = ItcConfig()
    itm: ItmConfig | None = ItmConfig()
    lm: LmConfig | None = LmConfig()
    rerank_k: NonNegative = 128  # candidates per query that ITM scores in evaluation; 0: ITC alone
    rerank_memory_gib: float = 1.0  # GiB of a device for keys and values of images in re-ranking
    gallery_size: NonNegative = 0  # images per gallery in evaluation; 0: one gallery of all images
    decoding: Decoding = GREEDY  # how captions are written for evaluation

    def make(self, model, tokenizer, mesh=None, augment=None) -> "Pretraining":
        return Pretraining(self, model, tokenizer, mesh, augment)


class Pretraining(PairTask):
    """Trains everything; predicts matches and captions, as far as the model can."""

    primary_metric = "itc/r@1"

    def check_packages(self, model_type: str) -> None:
        check_caption_metrics(model_type)

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns the predictions of retrieval and of captioning."""
        return predict_all(self.config, model, dataset)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns the metrics of retrieval and of captioning."""
        return evaluate_matches(predictions) | evaluate_captions(predictions, records)

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction of retrieval and of captioning."""
        found = match_details(predictions, records), caption_details(predictions, records)
        return [match or caption for match, caption in zip(*found, strict=True)]


def predict_all(config: PretrainingConfig, model: Model, dataset: EvalDataset) -> list[Prediction]:
    """Returns predictions of retrieval and of captioning, each if the model can."""
    predictions: list[Prediction] = []
    if model.can("match"):
        predictions += predict_matches(model, dataset, config)
    if model.can("caption"):
        predictions += predict_captions(model, dataset, config.decoding)
    return predictions
