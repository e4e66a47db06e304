"""Natural language visual reasoning (NLVR2): is a statement true of two images?

Recipe: configs/nlvr.yaml and train_nlvr.py of the original. S pixels a side, T tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blip_jax import nn
from blip_jax.data.augment import swap_sides
from blip_jax.data.fields import statements_of
from blip_jax.data.images import ImageError
from blip_jax.data.pipeline import InvalidRecord
from blip_jax.metrics import nlvr as nlvr_metrics
from blip_jax.models import Model
from blip_jax.models.functions import verify_function
from blip_jax.nn import flops
from blip_jax.runtime.arguments import Positive
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Batch, Params, Prediction, Task, TaskConfig
from blip_jax.tasks.details import Details, statement_details
from blip_jax.tasks.eval_dataset import EvalDataset, RowsOf
from blip_jax.tasks.pair_losses import pixels
from blip_jax.tasks.starting_params import fill, resized_positions


@dataclasses.dataclass(frozen=True)
class NlvrConfig(TaskConfig):
    """True or false, by a classifier on the statement's first token."""

    model_type: ClassVar[str] = "nlvr"

    max_length: Positive = 35  # tokens of a statement; longer ones are truncated
    # Exchange the two images of half of the training examples, and left and right in the words.
    swap_images: bool = True

    def make(self, model, tokenizer, mesh=None, augment=None) -> "Nlvr":
        return Nlvr(self, model, tokenizer, mesh, augment)


class Nlvr(Task[NlvrConfig]):
    """Trains the two-image encoder and its classifier.

    A batch holds image uint8 [B, 2, S, S, 3], ids and mask [B, T], label int32 [B] (1: true), and
    valid bool [B].
    """

    primary_metric = "accuracy"

    # Data

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        statements = [s for s in statements_of(record) if s["label"] is not None]
        if not statements or "second_image" not in record:
            raise InvalidRecord("missing field")
        statement = statements[int(rng.integers(len(statements)))]
        try:
            images = [
                self.transform.pair_of_bytes(record[name], "", rng, self.model.exif_orientation)[0]
                for name in ("image", "second_image")
            ]
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error
        text = self.tokenizer.cleanup.caption(statement["statement"])
        if not text:
            raise InvalidRecord("empty text")
        if self.config.swap_images and rng.random() < 0.5:
            images, text = images[::-1], swap_sides(text)
        return {"image": np.stack(images), "text": text, "label": statement["label"]}

    def empty_example(self) -> dict[str, Any]:
        size = self.model.vit.image_size
        return {"image": np.zeros((2, size, size, 3), np.uint8), "text": "", "label": False}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        ids, mask = self.tokenizer.encode([e["text"] for e in examples], self.config.max_length)
        return {
            "image": np.stack([e["image"] for e in examples]),
            "ids": ids,
            "mask": mask,
            "label": np.array([e["label"] for e in examples], np.int32),
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        size, text = self.model.vit.image_size, (batch_size, self.config.max_length)
        return {
            "image": jax.ShapeDtypeStruct((batch_size, 2, size, size, 3), np.uint8),
            "ids": jax.ShapeDtypeStruct(text, np.int32),
            "mask": jax.ShapeDtypeStruct(text, bool),
            "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
            "valid": jax.ShapeDtypeStruct((batch_size,), bool),
        }

    # Training

    def adapt_params(self, params: Params, source: nn.BlipConfig, fresh: Params) -> Params:
        """Returns a pre-training's weights, its cross-attention twice, and a fresh classifier.

        The learned merge layers are fresh, too.
        Source: `load_checkpoint` of the original's models/blip_nlvr.py.
        """
        return fill(
            fresh,
            resized_positions(params, self.model),
            origin=lambda name: name.replace("cross_attention_2", "cross_attention"),
            is_new=lambda name: name.startswith(("classifier_", "med/layers/merge_")),
        )

    def loss(
        self,
        params: Params,
        batch: Batch,
        constants: jax.Array,
        rows: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cross-entropy of true and false, and the accuracy."""
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        count, _, *pixel = batch["image"].shape
        # Both images of a statement are neighbours, so that no row is sent to another device.
        images = pixels(batch["image"]).reshape(2 * count, *pixel)
        tokens = self.apply(params, "encode_image", images, key=keys[0])
        tokens = tokens.reshape(count, 2, *tokens.shape[1:])
        contexts = self.apply(params, "image_contexts", tokens[:, 0], tokens[:, 1])
        logits = self.apply(params, "logits", batch["ids"], batch["mask"], contexts, key=keys[1])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        weight = batch["valid"] / jnp.maximum(constants, 1)
        loss = (weight * loss).sum()
        right = (weight * (logits.argmax(-1) == batch["label"])).sum()
        return loss, {"loss": loss, "train_accuracy": right}

    def flops(self, batch_size: int) -> int:
        """Returns the FLOPs of one training step, all chips together."""
        model, length = self.model, self.config.max_length
        image, tokens = flops.vit(model.vit), model.vit.tokens
        parts = [
            *[image, flops.image_context(model)] * 2,
            flops.text(model.med, length, tokens),
            flops.second_image(model.med, length, tokens),
            flops.nlvr_head(model.med),
        ]
        trained = sum(part.trained(model.remat) for part in parts)
        # There is no gradient with respect to pixels, nor to the weights of a mean of two images.
        constant = 2 * image.outside_layers + flops.mean_of_images(model.med, length)
        return batch_size * (trained - constant)

    # Evaluation

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns {"key": the statement's id, "image", "statement", "answer", "probability"}.

        "probability" is that of the statement being true.

        Raises:
          UserError: the model cannot verify, or no record has two images and a statement.
        """
        model.require("verify")
        pairs, statements = dataset.entries(statements_of)
        if not statements or dataset.content != "pair":
            raise UserError(
                f"no statement about two images in {dataset.name}; evaluate on a dataset with "
                "second_image and statements"
            )
        texts = [
            model.tokenizer.cleanup.caption(statement["statement"]) for statement in statements
        ]
        ids, mask = model.tokenizer.encode(texts, self.config.max_length)
        verify = verify_function(model)
        (logits,) = dataset.share(
            lambda images, ids, mask: verify(images[:, 0], images[:, 1], ids, mask),
            RowsOf(dataset.images, np.array(pairs)), ids, mask, title="statements",
        )  # fmt: skip
        probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))[:, 1]
        return [
            {
                "key": statement["id"],
                "image": dataset.records[pair]["key"],
                "statement": statement["statement"],
                "answer": bool(probability > 0.5),
                "probability": float(probability),
            }
            for statement, pair, probability in zip(statements, pairs, probabilities, strict=True)
        ]

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns accuracy and consistency in percent, of the statements whose label is known."""
        known = {s["id"]: s for record in records for s in statements_of(record)}
        answered = [p for p in predictions if isinstance(p.get("answer"), bool)]
        rows = [p for p in answered if known.get(p["key"], {}).get("label") is not None]
        if not rows:
            return {}
        asked = [known[p["key"]] for p in rows]
        return nlvr_metrics.nlvr_metrics(
            [p["answer"] for p in rows],
            [s["label"] for s in asked],
            [s["group"] for s in asked],
        )

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction; see `statement_details`."""
        return statement_details(predictions, records)
