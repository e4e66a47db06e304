"""Image-text retrieval: ITC and ITM fine-tuned with images as positives; CapFilt's filter.

Recipe: configs/retrieval_coco.yaml of the original. I images, T texts, K of recall at k.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from blip_jax.metrics import retrieval, uncertainty
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.models import Model
from blip_jax.models.functions import encode_image_function, encode_text_function
from blip_jax.runtime.arguments import NonNegative, Positive
from blip_jax.tasks.base import Prediction, TaskConfig
from blip_jax.tasks.details import Details, match_details
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.pairs import ItcConfig, ItmConfig, PairTask
from blip_jax.tasks.reranking import PairScorer

TOP = 10  # candidates per query in predictions.jsonl


@dataclasses.dataclass(frozen=True)
class RetrievalConfig(TaskConfig):
    """ITC and ITM; the texts of one image are positives of each other."""

    model_type: ClassVar[str] = "retrieval"
    lm: ClassVar[None] = None

    max_length: Positive = 35  # tokens of a text; longer texts are truncated
    itc: ItcConfig = ItcConfig(positives="image", alpha_warmup_steps=2213)
    itm: ItmConfig = ItmConfig(group_size=32, floor=0.0)
    rerank_k: NonNegative = 256  # candidates per query that ITM scores in evaluation; 0: ITC alone
    rerank_memory_gib: float = 1.0  # GiB of a device for keys and values of images in re-ranking
    gallery_size: NonNegative = 0  # images per gallery in evaluation; 0: one gallery of all images

    def make(self, model, tokenizer, mesh=None, augment=None) -> "Retrieval":
        return Retrieval(self, model, tokenizer, mesh, augment)


class Retrieval(PairTask):
    """Trains the encoders; predicts which texts belong to an image, and the reverse."""

    primary_metric = "itc/r@1"

    def predict(self, model: Model, dataset: EvalDataset) -> list[Prediction]:
        """Returns one prediction per query; see `predict_matches`."""
        return predict_matches(model, dataset, self.config)

    def evaluate(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Returns `itc/tr@1` …, and `itm/tr@1` … if ITM re-ranked, in percent."""
        return evaluate_matches(predictions)

    def details(
        self, predictions: Sequence[Prediction], records: Sequence[Mapping[str, Any]]
    ) -> list[Details | None]:
        """Returns what is said of each prediction; see `match_details`."""
        return match_details(predictions, records)


def predict_matches(model: Model, dataset: EvalDataset, config: Any) -> list[Prediction]:
    """Returns what ITC finds for each image and each text, and ITM among ITC's best candidates.

    Each is {"key", "direction": "i2t" | "t2i", "gallery": its number, "text": of a text query,
    "itc": {"rank": …, "hit@1": …, "top": [...], "scores": [...]}, "itm": the same or absent}.
    "hit@k" is the probability that one of the first k candidates is right when tied candidates are
    shuffled, "rank" the expected rank of the first right one.
    Texts in "top" are "KEY#NUMBER", images are keys.

    Args:
      config: a RetrievalConfig, or another with `rerank_k`, `rerank_memory_gib`, `gallery_size`.

    Raises:
      UserError: the model cannot match images and texts, or no image has a text.
    """
    model.require("encode")
    if config.rerank_k:
        model.require("match")
    dataset.check_texts()
    records = dataset.records
    clean = model.tokenizer.cleanup.caption
    texts = [clean(text) for record in records for text in record["texts"]]
    counts = [len(record["texts"]) for record in records]
    owner = np.repeat(np.arange(len(counts)), counts)
    ids, mask = model.tokenizer.encode(texts, model.max_length)
    encode = encode_image_function(model)

    def features(images: np.ndarray) -> np.ndarray:
        return encode.collect(encode.dispatch(images)[1])  # the tokens stay on the devices

    (image,) = dataset.run(features, dataset.images, title="images")
    (text,) = dataset.run(encode_text_function(model), ids, mask, title="texts")
    similarity = image @ text.T

    scorer = None
    if config.rerank_k:
        scorer = PairScorer(model, dataset, ids, mask, config.rerank_memory_gib)
    image_names = np.array([record["key"] for record in records])
    text_names = np.array(
        [
            f"{record['key']}#{number}"
            for record in records
            for number in range(len(record["texts"]))
        ]
    )
    predictions: list[Prediction] = []
    size = config.gallery_size or len(similarity)
    for number, (images, rows) in enumerate(retrieval.galleries(owner, len(similarity), size)):
        found = {"itc": (similarity[np.ix_(images, rows)], similarity[np.ix_(images, rows)].T)}
        if scorer is not None:

            def score(i, t, images=images, rows=rows):
                return scorer(images[i], rows[t])

            found["itm"] = retrieval.rerank(found["itc"][0], config.rerank_k, score)
        local_owner, local_images = owner[rows] - images[0], np.arange(len(images))
        sides = (
            ("i2t", 0, local_images, local_owner, image_names[images], text_names[rows]),
            ("t2i", 1, local_owner, local_images, text_names[rows], image_names[images]),
        )
        for direction, side, query_label, label, names, candidates in sides:
            hits = {
                head: retrieval.hits(scores[side], query_label, label)
                for head, scores in found.items()
            }
            ranks = {
                head: retrieval.ranks(scores[side], query_label, label)
                for head, scores in found.items()
            }
            for query, name in enumerate(names):
                if np.isnan(hits["itc"][query, 0]):
                    continue  # an image without texts is no query
                predictions.append(
                    {
                        "key": str(name),
                        "direction": direction,
                        "gallery": number,
                        **{
                            head: {"rank": float(ranks[head][query])}
                            | _ranking(hits[head][query], scores[side][query], candidates)
                            for head, scores in found.items()
                        },
                    }
                )
    return predictions


def _ranking(hits: np.ndarray, scores: np.ndarray, candidates: np.ndarray) -> dict[str, Any]:
    best = np.argsort(-scores, kind="stable")[:TOP]
    best = best[scores[best] > retrieval.UNSCORED]
    return {
        **{f"hit@{k}": float(hit) for k, hit in zip(retrieval.KS, hits, strict=True)},
        "top": candidates[best].tolist(),
        "scores": [float(score) for score in scores[best]],
    }


def evaluate_matches(predictions: Sequence[Prediction]) -> dict[str, Estimate]:
    """Returns recall at k in percent, both ways and their mean, averaged over galleries.

    The examples of standard errors are images with their texts, as outcomes of texts of one image
    are not independent. Standard errors are of all galleries taken together.
    """
    queries = [p for p in predictions if "direction" in p]
    metrics: dict[str, Estimate] = {}
    for head in ("itc", "itm"):
        if not all(head in p for p in queries) or not queries:
            continue
        galleries = []
        for gallery in sorted({p["gallery"] for p in queries}):
            sides = [
                np.array(
                    [
                        [p[head][f"hit@{k}"] for k in retrieval.KS]
                        for p in queries
                        if p["gallery"] == gallery and p["direction"] == direction
                    ]
                )
                for direction in ("i2t", "t2i")
            ]
            galleries.append(retrieval.recall_of_hits(*sides))
        errors = uncertainty.of_sums(_hits_by_image(queries, head), _recall)
        for name in galleries[0]:
            value = np.mean([gallery[name] for gallery in galleries])
            error = errors[name]
            metrics[f"{head}/{name}"] = Estimate(value, error.n, error.standard_error)
    return metrics


def _hits_by_image(queries: Sequence[Prediction], head: str) -> np.ndarray:
    """Returns what each image adds to the sums of `_recall`, float [images, 8].

    They are the hits of an image at each k and the number of its queries (1), and the same of its
    texts.
    """
    images: dict[str, np.ndarray] = {}
    width = len(retrieval.KS) + 1
    for query in queries:
        from_text = query["direction"] == "t2i"
        key = query["key"].rpartition("#")[0] if from_text else query["key"]
        row = images.setdefault(key or query["key"], np.zeros(2 * width))
        hits = [query[head][f"hit@{k}"] for k in retrieval.KS]
        row[width * from_text : width * (from_text + 1)] += [*hits, 1]
    return np.stack(list(images.values()))


def _recall(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Returns recall in percent of sums [B, 8] of `_hits_by_image`."""
    width = len(retrieval.KS) + 1
    found: dict[str, np.ndarray] = {}
    for column, k in enumerate(retrieval.KS):
        to_text = 100 * sums[:, column] / sums[:, width - 1]
        to_image = 100 * sums[:, width + column] / sums[:, -1]
        found |= {f"tr@{k}": to_text, f"ir@{k}": to_image, f"r@{k}": (to_text + to_image) / 2}
    return found
