"""Captioning: the decoder fine-tuned to write captions; CapFilt's captioner.

Recipe: configs/caption_coco.yaml of the original.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from blip_jax import nn
from blip_jax.data.fields import task_fields
from blip_jax.data.pipeline import crc32_hash
from blip_jax.data.synthetic.oracle import assess_texts
from blip_jax.decoding import Decoding, Generated
from blip_jax.metrics import uncertainty
from blip_jax.metrics.captioning import caption_scores, has_words, scores_by_domain
from blip_jax.metrics.java_captioning import java_caption_scores
from blip_jax.models import Model
from blip_jax.models.functions import captioner, example_keys, prompt_tokens
from blip_jax.runtime.arguments import Positive
from blip_jax.runtime.extras import check_installed
from blip_jax.runtime.terminal import print_note, printable
from blip_jax.tasks.base import Prediction, TaskConfig
from blip_jax.tasks.details import Details, caption_details
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.pairs import LmConfig, PairTask

PROMPT = "a picture of "
# How captions are written for evaluation: fast in pre-training, as in the paper in fine-tuning.
GREEDY = Decoding(method="greedy", repetition_penalty=1.0)
BEAM = Decoding(method="beam", repetition_penalty=1.0)


@dataclasses.dataclass(frozen=True)
class CaptioningConfig(TaskConfig):
    """Language modelling with a prompt."""

    model_type: ClassVar[str] = "captioner"
    itc: ClassVar[None] = None
    itm: ClassVar[None] = None

    max_length: Positive = 40  # tokens of a text, the prompt included; longer texts are truncated
    lm: LmConfig = LmConfig(prompt=PROMPT)
    decoding: Decoding = BEAM  # how captions are written for evaluation
    java_metrics: bool = False  # evaluate METEOR and SPICE too; Java takes 10 seconds to start

    def make(self, model, tokenizer, mesh=None, augment=None) -> "Captioning":
        return Captioning(self, model, tokenizer, mesh, augment)


class Captioning(PairTask):
    """Trains the decoder; predicts a caption an image."""

    primary_metric = "cider"

    def check_packages(self, model_type: str) -> None:
        check_caption_metrics(model_type)

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns {"key", "caption", "score", "reference"} of each image."""
        return predict_captions(model, dataset, self.config.decoding)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns BLEU-4, CIDEr, ROUGE-L; also `caption_truth` … if the dataset knows the truth."""
        return evaluate_captions(predictions, records, self.config.java_metrics)

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction; see `caption_details`."""
        return caption_details(predictions, records)


def predict_captions(model: Model, dataset: EvalDataset, decoding: Decoding) -> list[Prediction]:
    """Returns {"key", "caption", "score", "reference"} of each image.

    "score" is the caption's own, of beam search its log-probability over its length, else its
    log-probability; "reference" the list of the image's texts.

    Raises:
      UserError: the model cannot caption, no image has a text, or the model has diverged.
    """
    model.require("caption")
    dataset.check_texts()
    decoding = dataclasses.replace(decoding, num_captions=1)
    hashes = np.array([crc32_hash(record["key"]) for record in dataset.records])
    keys = example_keys(0, hashes)[:, None]
    write = captioner(model, [decoding])
    found = Generated(
        *dataset.share(
            lambda images, keys: write(images, [keys]), dataset.images, keys, title="captions"
        )
    )
    texts = model.tokenizer.decode(found.tokens[:, 0, len(prompt_tokens(model)) :])
    return [
        {
            "key": record["key"],
            "caption": text,
            "score": float(score),
            "reference": list(record["texts"]),
        }
        for record, text, score in zip(dataset.records, texts, found.score[:, 0], strict=True)
    ]


def check_caption_metrics(model_type: str) -> None:
    """Raises a UserError if this type of model writes captions and their metrics are missing."""
    if "caption" in nn.MODEL_TYPES[model_type].capabilities:
        check_installed("metrics", "pycocoevalcap")


def evaluate_captions(
    predictions: Sequence[Prediction],
    records: Sequence[Mapping[str, Any]],
    java_metrics: bool = False,
) -> dict[str, float]:
    """Returns metrics in percent, with standard errors over images.

    `bleu4`, `cider`, `rouge_l`; with `java_metrics` `meteor` and `spice`, and a line on stderr for
    each of them that cannot be computed; where all records name a domain (NoCaps) the same by
    domain, `in-domain/cider` …; and for datasets that know the truth `caption_truth` and
    `caption_completeness`, the shares of captions that say nothing false and that leave nothing
    out, and `caption_exact`, both.
    """
    captions = {p["key"]: p["caption"] for p in predictions if "caption" in p}
    captioned = [record for record in records if record["key"] in captions]
    rows = [record for record in captioned if has_words(record["texts"])]
    if (missing_rows := len(captioned) - len(rows)) and jax.process_index() == 0:
        print_note(f"{missing_rows} images have no reference caption and are not measured")
    if not rows:
        return {}
    texts = [captions[record["key"]] for record in rows]
    missing: dict[str, str] = {}

    def score(texts: list[str], references: list[list[str]]) -> dict[str, float]:
        scores: dict[str, float] = caption_scores(texts, references)
        if java_metrics:
            found, reasons = java_caption_scores(texts, references)
            scores |= found
            missing.update(reasons)
        return scores

    references = [record["texts"] for record in rows]
    domains = [_domain(record) for record in rows]
    if all(domains):
        scores = scores_by_domain(score, texts, references, domains)
    else:
        scores = score(texts, references)
    for name, reason in missing.items():
        if jax.process_index() == 0:
            print(f"metric {name} is left out: {printable(reason)}", file=sys.stderr)
    truths = assess_texts(texts, [record.get("truth", "") for record in rows])
    return scores | {name: uncertainty.mean(values, 100) for name, values in truths.items()}


def _domain(record: Mapping[str, Any]) -> str:
    """Returns the "domain" in a record's field `fields`; "" if there is none."""
    domain = task_fields(record).get("domain")
    return domain if isinstance(domain, str) else ""
