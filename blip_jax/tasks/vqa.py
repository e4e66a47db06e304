"""Visual question answering: a decoder writes the answers to questions about an image.

Recipe: configs/vqa.yaml and models/blip_vqa.py of the original. A answers a question, T tokens.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import losses, nn
from blip_jax.data.fields import questions_of
from blip_jax.data.images import ImageError
from blip_jax.data.pipeline import InvalidRecord
from blip_jax.decoding import Decoding
from blip_jax.metrics import vqa as vqa_metrics
from blip_jax.models import Model
from blip_jax.models.image_tokens import image_tokens
from blip_jax.nn import flops
from blip_jax.runtime.arguments import Positive, Share
from blip_jax.runtime.numbers import is_digits
from blip_jax.tasks.answers import answered_questions, predict_answers, training_answers
from blip_jax.tasks.base import Batch, Params, Prediction, Task, TaskConfig
from blip_jax.tasks.details import Details, answer_details
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.pair_losses import pixels
from blip_jax.tasks.starting_params import fill, resized_positions, without_role


@dataclasses.dataclass(frozen=True)
class VqaConfig(TaskConfig):
    """Answers written by the decoder, weighted by how many annotators gave them."""

    model_type: ClassVar[str] = "vqa"

    max_length: Positive = 35  # tokens of a question; longer ones are truncated
    max_answer_length: Positive = 12  # tokens of an answer, [DEC] and [SEP] included
    # Different answers of a question that are trained on, the most frequent.
    max_answers: Positive = 10
    label_smoothing: Share = 0.1  # share of the target that is spread over the vocabulary
    # Dataset folder whose training answers are ranked in evaluation; empty: answers are generated.
    candidates: str = ""
    num_candidates: Positive = 3128  # answers of that dataset that are ranked
    rank_k: Positive = 128  # candidates that are scored in full, chosen by their first token
    # How answers are generated without candidates.
    decoding: Decoding = Decoding(
        method="beam", num_beams=3, min_length=1, max_length=10, repetition_penalty=1.0
    )

    def make(self, model, tokenizer, mesh=None, augment=None) -> "Vqa":
        return Vqa(self, model, tokenizer, mesh, augment)


class Vqa(Task[VqaConfig]):
    """Trains question encoder and answer decoder; predicts an answer to each question.

    A batch holds image uint8 [B, S, S, 3], ids and mask [B, Q] of the question, answer_ids and
    answer_mask [B, A, T], answer_weight float32 [B, A], and valid bool [B].
    """

    primary_metric = "accuracy"

    # Data

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        questions = [q for q in questions_of(record) if q["answers"]]
        if not questions:
            raise InvalidRecord("missing field")
        question = questions[int(rng.integers(len(questions)))]
        text = self.tokenizer.cleanup.question(question["question"])
        image, text = self.picture(record, text, rng)
        if not text:
            raise InvalidRecord("empty text")
        return {"image": image, "question": text, "answers": answer_weights(question)}

    def picture(
        self, record: Mapping[str, Any], text: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, str]:
        """Returns a record's image, augmented, and the text, which augmentation may change.

        Raises:
          InvalidRecord: there is no image, or it does not decode.
        """
        if "image" not in record:
            raise InvalidRecord("missing field")
        try:
            return self.transform.pair_of_bytes(
                record["image"], text, rng, self.model.exif_orientation
            )
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Returns the shape of an example's image."""
        return (self.model.vit.image_size, self.model.vit.image_size, 3)

    @property
    def num_images(self) -> int:
        """Returns the number of images that a question is about."""
        return 1

    def empty_example(self) -> dict[str, Any]:
        return {"image": np.zeros(self.image_shape, np.uint8), "question": "", "answers": {}}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        config, count = self.config, len(examples)
        ids, mask = self.tokenizer.encode([e["question"] for e in examples], config.max_length)
        weight = np.zeros((count, config.max_answers), np.float32)
        answers = [[""] * config.max_answers for _ in examples]
        for row, example in enumerate(examples):
            best = sorted(example["answers"].items(), key=lambda item: (-item[1], item[0]))
            for place, (answer, value) in enumerate(best[: config.max_answers]):
                answers[row][place], weight[row, place] = answer, value
        flat = [answer for row in answers for answer in row]
        answer_ids, answer_mask = self.tokenizer.encode(flat, config.max_answer_length)
        shape = (count, config.max_answers, -1)
        return {
            "image": np.stack([e["image"] for e in examples]),
            "ids": ids,
            "mask": mask,
            "answer_ids": answer_ids.reshape(shape),
            "answer_mask": answer_mask.reshape(shape),
            "answer_weight": weight,
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        config = self.config
        question = (batch_size, config.max_length)
        answers = (batch_size, config.max_answers)
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), np.uint8),
            "ids": jax.ShapeDtypeStruct(question, np.int32),
            "mask": jax.ShapeDtypeStruct(question, bool),
            "answer_ids": jax.ShapeDtypeStruct((*answers, config.max_answer_length), np.int32),
            "answer_mask": jax.ShapeDtypeStruct((*answers, config.max_answer_length), bool),
            "answer_weight": jax.ShapeDtypeStruct(answers, np.float32),
            "valid": jax.ShapeDtypeStruct((batch_size,), bool),
        }

    # Training

    def adapt_params(self, params: Params, source: nn.BlipConfig, fresh: Params) -> Params:
        """Returns a pre-training's weights for the question encoder and for the answer decoder.

        Source: `load_checkpoint` of the original's models/blip.py, by which each takes what its
        role has. Where shapes differ (of ViT-L, the decoder's cross-attention) `fresh` stays.
        """
        return fill(
            fresh,
            resized_positions(params, self.model),
            origin=without_role,
            is_new=lambda name: name.startswith("med/decoder_cross_attention_context/"),
        )

    def loss(
        self,
        params: Params,
        batch: Batch,
        constants: jax.Array,
        rows: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the weighted cross-entropy of all answers, summed over their tokens."""
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        length = batch["answer_ids"].shape[-1]
        encode = functools.partial(self.apply, params, key=keys[0])
        tokens = image_tokens(encode, pixels(batch["image"]))
        states = self.apply(
            params, "question_hidden_states", tokens, batch["ids"], batch["mask"], key=keys[1]
        )
        context = self.apply(params, "question_context", states, batch["mask"])
        ids = batch["answer_ids"].reshape(-1, length)
        mask = batch["answer_mask"].reshape(-1, length)
        ids = nn.set_first_token(ids, self.model.med.dec_token)
        logits = self.apply(params, "lm_logits", ids, mask, context, key=keys[2])
        loss, counts = losses.lm_loss(logits, ids, mask, smoothing=self.config.label_smoothing)
        weight = (batch["answer_weight"] * batch["valid"][:, None]).reshape(-1)
        total = (weight * (loss * counts).sum(-1)).sum() / jnp.maximum(constants, 1)
        return total, {"loss": total}

    def flops(self, batch_size: int) -> int:
        """Returns the FLOPs of one training step, all chips together."""
        config, model = self.config, self.model
        med, answers = model.med, config.max_answers
        images, image = self.num_images, flops.vit(model.vit)
        answer = [
            flops.text(med, config.max_answer_length, config.max_length),
            flops.lm_head(med, config.max_answer_length),
        ]
        parts = [
            *[image, flops.image_context(model)] * images,
            flops.text(med, config.max_length, images * model.vit.tokens),
            flops.context(med, config.max_length, med.width),
            *answer * answers,
        ]
        # There is no gradient with respect to pixels.
        return batch_size * (
            sum(x.trained(model.remat) for x in parts) - images * image.outside_layers
        )

    # Evaluation

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns an answer to each question; see `predict_answers`."""
        config = self.config
        if not config.candidates:
            return predict_answers(model, dataset, config.decoding)
        candidates = training_answers(config.candidates, config.num_candidates)
        return predict_answers(model, dataset, config.decoding, candidates, config.rank_k)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns VQA's soft accuracy in percent, of all questions and by their type."""
        answers, asked = answered_questions(predictions, records)
        if not asked:
            return {}
        annotations = [question["answers"] for question in asked]
        types = [str(question.get("type", "")) for question in asked]
        return vqa_metrics.vqa_accuracy(answers, annotations, types)

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction; see `answer_details`."""
        return answer_details(predictions, records)

    def submission(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]] | None:
        """Returns what VQA's evaluation server takes; None if ids are no numbers, as VQA v2's."""
        answered = {p["key"]: p["answer"] for p in predictions if "answer" in p}
        if not answered or not all(map(is_digits, answered)):
            return None
        return vqa_metrics.submission(list(answered), list(answered.values()))


def answer_weights(question: Mapping[str, Any]) -> dict[str, float]:
    """Returns the weight of each different answer: its share of the annotators.

    A question's own "weight" multiplies them (the original gives those of Visual Genome 0.2).
    """
    answers = question["answers"]
    weight = question.get("weight", 1.0)
    weight = weight if isinstance(weight, int | float) and 0 <= weight < math.inf else 1.0
    return {
        answer: weight * count / len(answers)
        for answer, count in collections.Counter(answers).items()
    }
