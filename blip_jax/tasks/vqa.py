"""Visual question answering: a decoder writes the answers to questions about an image.

Recipe: configs/vqa.yaml and models/blip_vqa.py of the original. A answers a question, T tokens.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import losses, nn
from blip_jax.data.datasets import open_dataset, plain_value
from blip_jax.data.fields import questions_of
from blip_jax.data.images import ImageError, decode
from blip_jax.data.pipeline import InvalidRecord
from blip_jax.data.text import clean_question
from blip_jax.decoding import Decoding, Generated
from blip_jax.metrics import vqa as vqa_metrics
from blip_jax.models import Model
from blip_jax.models.functions import answer_function, rank_function
from blip_jax.models.inputs import encode_candidates
from blip_jax.models.results import captions_of
from blip_jax.nn import flops
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Batch, Extra, Params, Prediction, Task, TaskConfig
from blip_jax.tasks.eval_dataset import EvalDataset, RowsOf
from blip_jax.tasks.pair_losses import pixels
from blip_jax.tasks.starting_params import fill, resized_positions, without_role

SPLIT = "train"  # of a dataset whose answers are the candidates


@dataclasses.dataclass(frozen=True)
class VqaConfig(TaskConfig):
    """Answers written by the decoder, weighted by how many annotators gave them."""

    model_type: ClassVar[str] = "vqa"

    max_length: int = 35  # tokens of a question; longer ones are truncated
    max_answer_length: int = 12  # tokens of an answer, [DEC] and [SEP] included
    max_answers: int = 10  # different answers of a question that are trained on, the most frequent
    label_smoothing: float = 0.1  # share of the target that is spread over the vocabulary
    # Dataset folder whose training answers are ranked in evaluation; empty: answers are generated.
    candidates: str = ""
    num_candidates: int = 3128  # answers of that dataset that are ranked
    rank_k: int = 128  # candidates that are scored in full, chosen by their first token
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

    primary_metric = "vqa_accuracy"

    # Data

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        questions = [q for q in questions_of(record) if q["answers"]]
        if not questions:
            raise InvalidRecord("missing field")
        question = questions[int(rng.integers(len(questions)))]
        try:
            image = decode(record["image"], self.model.exif_orientation)
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error
        image, text = self.transform.pair(image, clean_question(question["question"]), rng)
        if not text:
            raise InvalidRecord("empty text")
        return {"image": image, "question": text, "answers": answer_weights(question)}

    def empty_example(self) -> dict[str, Any]:
        size = self.model.vit.image_size
        return {"image": np.zeros((size, size, 3), np.uint8), "question": "", "answers": {}}

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
        config, size = self.config, self.model.vit.image_size
        question = (batch_size, config.max_length)
        answers = (batch_size, config.max_answers)
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
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

    def prepare(
        self, params: Params, extra: Extra, batch: Batch, step: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Extra]:
        """Returns the number of questions that count, by which the loss is divided."""
        return batch["valid"].sum(), extra

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
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
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
        image = flops.vit(model.vit)
        answer = [
            flops.text(med, config.max_answer_length, config.max_length),
            flops.lm_head(med, config.max_answer_length),
        ]
        parts = [
            image,
            flops.image_context(model),
            flops.text(med, config.max_length, model.vit.tokens),
            flops.context(med, config.max_length, med.width),
            *answer * answers,
        ]
        # There is no gradient with respect to pixels.
        return batch_size * (sum(x.trained(model.remat) for x in parts) - image.outside_layers)

    # Evaluation

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns {"key": the question's id, "image", "question", "answer", "log_probability"}.

        Answers are the likeliest of `config.candidates`, or generated if these are empty.

        Raises:
          UserError: the model cannot answer, no record has a question, or the candidates are none.
        """
        model.require("answer")
        images, questions = [], []
        for number, record in enumerate(dataset.records):
            for question in questions_of(record):
                images.append(number)
                questions.append(question)
        if not questions:
            raise UserError(f"no question in {dataset.name}; evaluate on a dataset with questions")
        texts = [clean_question(question["question"]) for question in questions]
        ids, mask = model.tokenizer.encode(texts, self.config.max_length)
        arrays = RowsOf(dataset.images, np.array(images)), ids, mask
        answers, scores = self._answers(model, dataset, arrays)
        return [
            {
                "key": question["id"],
                "image": dataset.records[image]["key"],
                "question": question["question"],
                "answer": answer,
                "log_probability": float(score),
            }
            for question, image, answer, score in zip(
                questions, images, answers, scores, strict=True
            )
        ]

    def _answers(
        self, model: Model, dataset: EvalDataset, arrays: tuple
    ) -> tuple[list[str], np.ndarray]:
        """Returns an answer to each question, and its log-probability."""
        config, positions = self.config, model.config.med.max_length
        if config.candidates:
            candidates = training_answers(config.candidates, config.num_candidates)
            shared = encode_candidates(model.tokenizer, candidates, positions)
            rank = rank_function(model, min(config.rank_k, len(candidates)))
            function = functools.partial(rank, shared=shared)
            index, scores = dataset.share(function, *arrays, title="answers")
            return [candidates[i] for i in index], scores
        decoding = dataclasses.replace(config.decoding, num_captions=1)
        write = answer_function(model, decoding.shape(1, positions))
        found = Generated(
            *dataset.share(
                lambda *rows: write(*rows, decoding.params(len(rows[0]))), *arrays, title="answers"
            )
        )
        captions = captions_of(found, np.ones(len(found.tokens), int), model.tokenizer)
        return [row[0].text for row in captions], np.array([row[0].score for row in captions])

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns VQA's soft accuracy in percent, of all questions and by their type."""
        known = {q["id"]: q for record in records for q in questions_of(record)}
        rows = [p for p in predictions if known.get(p["key"], {}).get("answers")]
        if not rows:
            return {}
        asked = [known[p["key"]] for p in rows]
        return vqa_metrics.accuracy_by_type(
            [p["answer"] for p in rows],
            [q["answers"] for q in asked],
            [str(q.get("type", "")) for q in asked],
        )


def answer_weights(question: Mapping[str, Any]) -> dict[str, float]:
    """Returns the weight of each different answer: its share of the annotators.

    A question's own "weight" multiplies them (the original gives those of Visual Genome 0.2).
    """
    answers = question["answers"]
    weight = question.get("weight", 1.0)
    weight = weight if isinstance(weight, int | float) and weight >= 0 else 1.0
    return {
        answer: weight * count / len(answers)
        for answer, count in collections.Counter(answers).items()
    }


@functools.lru_cache(maxsize=2)
def training_answers(dataset: str, count: int) -> tuple[str, ...]:
    """Returns the most frequent answers of a dataset's training split, at most `count`.

    An answer counts once a question whose most frequent answer it is; equal ones are in order of
    the alphabet.

    Raises:
      UserError: there is no such dataset, or it has no answers.
    """
    counts: collections.Counter = collections.Counter()
    for record in open_dataset(dataset, SPLIT, ("key", "fields")):
        for question in questions_of({"fields": plain_value(record["fields"])}):
            votes = collections.Counter(question["answers"])
            if votes:
                counts[min(votes, key=lambda answer: (-votes[answer], answer))] += 1
    if not counts:
        raise UserError(
            f"config.task.candidates: {dataset}, split {SPLIT}, has no questions with answers"
        )
    best = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return tuple(best[:count])


def config(**changes: Any) -> VqaConfig:
    """Returns the recipe of the original for VQA v2."""
    return VqaConfig(**changes)
