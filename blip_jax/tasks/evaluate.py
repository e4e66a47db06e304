"""Runs a trained model over a dataset and hands arrays and strings to `evaluation/`.

Of several processes each encodes all images and texts; what takes long, re-ranking and captions, is
shared out. All get the same numbers, and the first writes them.
"""

import dataclasses
import json
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from blip_jax.data.pipeline import crc32_hash, eval_batches
from blip_jax.data.synthetic.oracle import truthfulness
from blip_jax.data.text import clean_caption
from blip_jax.decoding import Decoding
from blip_jax.metrics import retrieval
from blip_jax.metrics.captioning import caption_scores
from blip_jax.models import Model, load
from blip_jax.models.batching import run_in_batches
from blip_jax.models.functions import (
    captioner,
    encode_image_function,
    encode_text_function,
    example_keys,
    prompt_tokens,
    rerank_function,
)
from blip_jax.reports import tables
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather

BATCH = 128  # rows a device at a time


def evaluate(
    model: Model,
    dataset: str,
    split: str,
    *,
    decoding: Decoding,
    gallery: int = 0,
    rerank: int = 128,
    limit: int | None = None,
) -> dict[str, float]:
    """Retrieval and captioning of one model on one dataset, of which it does either or both.

    Args:
      dataset, split: images with reference texts (data/sources.py).
      decoding: how captions are written.
      gallery: images a gallery of retrieval; 0 for all in one.
      rerank: candidates that ITM judges anew; 0 leaves re-ranking out.
      limit: only so many images from the start.

    Returns: all in percent: `itc tr@1`, …, `itm r@1`, …, `bleu4`, `cider`, `rouge_l`; and for
      datasets that know the truth `true` and `complete`, the shares of captions that say nothing
      false and that leave nothing out, and `right`, both.
    """
    images, found = Images(model, dataset, split, limit), {}
    if model.can("match"):
        found |= image_text_retrieval(model, images, gallery, rerank)
    if not model.can("caption"):
        return found
    captions = write_captions(model, images, decoding)
    references = [record["texts"] for record in images.records]
    found |= caption_scores(captions, references)
    return found | truthfulness(captions, [record["truth"] for record in images.records])


class Images:
    """The decodable images of a split with their records.

    Raises:
      UserError: there are none.
    """

    def __init__(self, model: Model, dataset: str, split: str, limit: int | None = None):
        self.batch = BATCH * jax.local_device_count()
        pixels, self.records = [], []
        for batch in eval_batches(dataset, split, self.batch, model.image_size, limit):
            valid = batch["valid"][: len(batch["records"])]
            pixels.append(batch["image"][: len(valid)][valid])
            usable = zip(batch["records"], valid, strict=True)
            self.records += [record for record, good in usable if good]
        if not self.records:
            raise UserError(f"no image of {dataset}, split {split}, decodes")
        self.pixels = np.concatenate(pixels)


def image_text_retrieval(
    model: Model, images: Images, gallery: int, rerank: int
) -> dict[str, float]:
    """Recall by ITC, and by ITM on the best `rerank` candidates of ITC."""
    texts = [clean_caption(text) for record in images.records for text in record["texts"]]
    counts = [len(record["texts"]) for record in images.records]
    owner = np.repeat(np.arange(len(counts)), counts)
    ids, mask = model.tokenizer.encode(texts, model.max_length)
    size = images.batch
    tokens, image = run_in_batches(
        encode_image_function(model), size, images.pixels, title="images"
    )
    (text,) = run_in_batches(encode_text_function(model), size, ids, mask, title="texts")
    similarity = image @ text.T
    found = retrieval.evaluate(similarity, owner, gallery=gallery)
    values = {f"itc {name}": value for name, value in found.items()}
    if not rerank:
        return values
    match = rerank_function(model)

    def logit(i: np.ndarray, t: np.ndarray) -> np.ndarray:
        return match(tokens[i], ids[t], mask[t])[:, 1]

    def score(i: np.ndarray, t: np.ndarray) -> np.ndarray:
        return run_across_processes(logit, size, i, t)[0]

    found = retrieval.evaluate(similarity, owner, score_fn=score, k=rerank, gallery=gallery)
    return values | {f"itm {name}": value for name, value in found.items()}


def write_captions(model: Model, images: Images, decoding: Decoding) -> list[str]:
    """A caption an image."""
    hashes = np.array([crc32_hash(record["key"]) for record in images.records])
    keys = example_keys(0, hashes)[:, None]
    write = captioner(model, [dataclasses.replace(decoding, num_captions=1)])
    tokens = run_across_processes(
        lambda pixels, keys: write(pixels, [keys]), images.batch, images.pixels, keys,
        title="captions",
    )[0]  # fmt: skip
    return model.tokenizer.decode(tokens[:, 0, len(prompt_tokens(model)) :])


def run_across_processes(
    function: Callable, size: int, *arrays: np.ndarray, title: str = ""
) -> list:
    """`run_in_batches`, of which each process does its part of the rows, and all get the whole.

    Parts are of one length, the last ones filled up with the last row.
    """
    total = len(arrays[0])
    own = -(-total // jax.process_count())
    rows = np.minimum(np.arange(own) + jax.process_index() * own, total - 1)
    results = run_in_batches(function, size, *(array[rows] for array in arrays), title=title)
    return [np.concatenate(all_gather(x))[:total] for x in results]


def defaults() -> ConfigDict:
    """The fields of the verb `evaluate`."""
    return ConfigDict({
        "model": "",  # workdir of the training
        "dataset": "",  # folder with features.json
        "split": "test",
        "gallery": 0,  # images a gallery of retrieval; 0: all
        "rerank": 128,  # candidates that ITM judges anew; 0: none
        "limit": 0,  # images; 0: all
        "decoding": ConfigDict({
            "method": "greedy", "top_p": 0.9, "top_k": 0, "temperature": 1.0,
            "repetition_penalty": 1.0, "min_length": 5, "max_length": 20,
            "num_beams": 3, "length_penalty": 1.0,
        }),
    }).lock()  # fmt: skip


def run(config: ConfigDict, workdir: str) -> None:
    """The verb: prints a table and writes `workdir/metrics.json`.

    Raises:
      UserError: a field that must be given is empty, or names nothing.
    """
    for name in ("model", "dataset"):
        if not config[name]:
            raise UserError(f"config.{name} is empty; give it with --config.{name}=FOLDER")
    found = evaluate(
        load(config.model),
        config.dataset,
        config.split,
        decoding=Decoding(**config.decoding),
        gallery=config.gallery,
        rerank=config.rerank,
        limit=config.limit or None,
    )
    if jax.process_index():
        return
    print(tables.plain([{"metric": name, "value": value} for name, value in found.items()]))
    folder = epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
