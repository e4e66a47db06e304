"""Video question answering (MSRVTT-QA, MSVD-QA): the decoder reads the frames of a clip in a row.

The paper evaluates a VQA model as it is (section 5.6). F frames, S pixels a side.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.data.pipeline import InvalidRecord
from blip_jax.data.video import VideoError, frames
from blip_jax.metrics import vqa as vqa_metrics
from blip_jax.models import Model
from blip_jax.runtime.arguments import Positive
from blip_jax.tasks.answers import answered_questions
from blip_jax.tasks.base import Prediction
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.vqa import Vqa, VqaConfig


@dataclasses.dataclass(frozen=True)
class VideoQaConfig(VqaConfig):
    """Answers to questions about clips; settings and weights are those of VQA."""

    num_frames: Positive = 16  # frames of a clip, evenly spaced in time

    def make(self, model, tokenizer, mesh=None, augment=None) -> "VideoQa":
        return VideoQa(self, model, tokenizer, mesh, augment)


class VideoQa(Vqa):
    """Trains and evaluates as `Vqa`; the images of a batch are uint8 [B, F, S, S, 3]."""

    record_fields = ("key", "video")

    @property
    def num_images(self) -> int:
        return self.config.num_frames

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (self.config.num_frames, *super().image_shape)

    def picture(
        self, record: Mapping[str, Any], text: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, str]:
        """Returns the frames of a record, augmented all in the same way, and the text.

        Raises:
          InvalidRecord: there is no video, or it does not decode.
        """
        if "video" not in record:
            raise InvalidRecord("missing field")
        try:
            found = frames(record["video"], self.config.num_frames)
        except VideoError as error:
            raise InvalidRecord("undecodable video") from error
        seed = int(rng.integers(2**63))
        pairs = [self.transform.pair(frame, text, np.random.default_rng(seed)) for frame in found]
        return np.stack([frame for frame, _ in pairs]), pairs[0][1]

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns an answer to each question; see `predict_answers`.

        Raises:
          UserError: the dataset has no clips.
        """
        dataset.check_clips()
        return super().predict(model, dataset)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns the share of answers that equal the right one, in percent: `accuracy`."""
        answers, asked = answered_questions(predictions, records)
        if not asked:
            return {}
        return vqa_metrics.exact_match(answers, [question["answers"] for question in asked])

    def submission(self, predictions: Sequence[Prediction]) -> None:
        """Returns None: these benchmarks have no evaluation server."""
