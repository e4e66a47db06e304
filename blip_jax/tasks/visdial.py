"""Visual dialog (VisDial): which of the candidates answers a question about an image, in a dialog?

Paper, section 5.5: the dialog encoder reads the dialog with each candidate and the image, and its
ITM head tells whether the candidate is right. The original has no code for it; the paper gives the
learning rate, batch size and epochs. B rounds, C candidates of a round, S pixels a side, T tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.data.dialog import EMPTY_ROUND, answer_line, dialog_round, encode_rounds
from blip_jax.data.fields import rounds_of
from blip_jax.data.images import ImageError
from blip_jax.data.pipeline import InvalidRecord
from blip_jax.models import Model
from blip_jax.models.dialogs import log_odds
from blip_jax.nn import flops
from blip_jax.runtime.arguments import Positive
from blip_jax.tasks.base import Batch, Params, Prediction, Task, TaskConfig
from blip_jax.tasks.details import Details, round_details
from blip_jax.tasks.dialog_ranking import dialog_metrics, dialog_submission, rank_rounds
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.pair_losses import pixels


@dataclasses.dataclass(frozen=True)
class VisdialConfig(TaskConfig):
    """Right and wrong answers told apart by the ITM head, given image, caption and dialog."""

    model_type: ClassVar[str] = "dialog"

    # Tokens of caption, earlier rounds, question and answer; of longer ones the oldest rounds go.
    max_length: Positive = 192
    # Wrong answers of each round that is trained on, drawn from its options.
    negatives: Positive = 3
    # softmax: the right answer among those drawn; binary: right or wrong, each by itself, as ITM.
    loss: Literal["softmax", "binary"] = "softmax"
    # Options of a round that evaluation reads at a time on a device. Attention of 192 tokens to 577
    # image tokens in 12 heads is 5 MB of scores an option.
    eval_chunk: Positive = 25

    @property
    def candidates(self) -> int:
        """Returns C of a training batch."""
        return 1 + self.negatives

    def make(self, model, tokenizer, mesh=None, augment=None) -> "Visdial":
        return Visdial(self, model, tokenizer, mesh, augment)


class Visdial(Task[VisdialConfig]):
    """Trains the image-grounded text encoder and its ITM head on rounds of dialogs.

    A batch holds image uint8 [B, S, S, 3], ids and mask [B, C, T] of the dialog with each
    candidate, the right one first, candidate bool [B, C] (False: there were too few wrong
    options), and valid bool [B].
    """

    primary_metric = "mrr"

    # Data

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        rounds = rounds_of(record)
        known = [i for i, row in enumerate(rounds) if row["answer_index"] is not None]
        if not known:
            raise InvalidRecord("missing field")
        number = known[int(rng.integers(len(known)))]
        options = rounds[number]["options"]
        cleanup = self.tokenizer.cleanup
        right = answer_line(options[rounds[number]["answer_index"]], cleanup)
        lines = [answer_line(text, cleanup) for text in options]
        wrong = list(dict.fromkeys(line for line in lines if line and line != right))
        if not right or not wrong:
            raise InvalidRecord("empty text")
        drawn = rng.permutation(len(wrong))[: self.config.negatives]
        text = dialog_round(record, number, [right, *(wrong[i] for i in drawn)], cleanup)
        # In one piece, as a flip that exchanges left and right does so in all texts or in none.
        lines = "\n".join(text.lines)
        try:
            image, lines = self.transform.pair_of_bytes(
                record["image"], lines, rng, self.model.exif_orientation
            )
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error
        return {"image": image, "text": text.with_lines(lines.split("\n"))}

    def empty_example(self) -> dict[str, Any]:
        size = self.model.vit.image_size
        return {"image": np.zeros((size, size, 3), np.uint8), "text": EMPTY_ROUND}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        count, texts = self.config.candidates, [e["text"] for e in examples]
        ids, mask = encode_rounds(self.tokenizer, texts, count, self.config.max_length)
        given = np.array([[len(text.candidates)] for text in texts])
        return {
            "image": np.stack([e["image"] for e in examples]),
            "ids": ids,
            "mask": mask,
            "candidate": np.arange(count) < given,
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        size, candidates = self.model.vit.image_size, (batch_size, self.config.candidates)
        text = (*candidates, self.config.max_length)
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
            "ids": jax.ShapeDtypeStruct(text, np.int32),
            "mask": jax.ShapeDtypeStruct(text, bool),
            "candidate": jax.ShapeDtypeStruct(candidates, bool),
            "valid": jax.ShapeDtypeStruct((batch_size,), bool),
        }

    # Training

    def loss(
        self,
        params: Params,
        batch: Batch,
        constants: jax.Array,
        rows: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cross-entropy of the right candidates, and how often one scores best."""
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        shape = batch["candidate"].shape
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
        context = self.apply(params, "image_context", tokens, "encoder")
        length = batch["ids"].shape[-1]
        ids, mask = batch["ids"].reshape(-1, length), batch["mask"].reshape(-1, length)
        logits = self.apply(params, "itm_logits", ids, mask, context, key=keys[1])
        scores = log_odds(logits).reshape(shape)
        among = jnp.where(batch["candidate"], scores, -jnp.inf)
        if self.config.loss == "softmax":
            loss = jax.nn.logsumexp(among, axis=-1) - scores[:, 0]
        else:
            signs = jnp.where(jnp.arange(shape[1]) == 0, -1, 1)
            loss = (jax.nn.softplus(signs * scores) * batch["candidate"]).sum(-1)
            loss = loss / jnp.maximum(batch["candidate"].sum(-1), 1)
        weight = batch["valid"] / jnp.maximum(constants, 1)
        loss = (weight * loss).sum()
        best = (weight * (among.argmax(-1) == 0)).sum()
        return loss, {"loss": loss, "train_accuracy": best}

    def flops(self, batch_size: int) -> int:
        """Returns the FLOPs of one training step, all chips together."""
        model, config = self.model, self.config
        image = flops.vit(model.vit)
        text = flops.text(model.med, config.max_length, model.vit.tokens)
        parts = [image, flops.image_context(model), *[text] * config.candidates]
        # There is no gradient with respect to pixels.
        return batch_size * (sum(x.trained(model.remat) for x in parts) - image.outside_layers)

    # Evaluation

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns the scores of the options of each round; see `rank_rounds`."""
        return rank_rounds(model, dataset, self.config.max_length, self.config.eval_chunk)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns MRR, R@1, R@5, R@10, mean rank and NDCG; see `metrics.visdial`."""
        return dialog_metrics(predictions, records)

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction; see `round_details`."""
        return round_details(predictions, records)

    def submission(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]] | None:
        """Returns what VisDial's evaluation server takes; None if keys are no numbers."""
        return dialog_submission(predictions)
