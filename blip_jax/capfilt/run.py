"""Caption and score a dataset, shard by shard, so that it can be stopped anywhere.

A shard is a run of rows of the input, the unit of work: it is computed whole, written under a
temporary name and renamed. What is there already is not done again. The key that an image's
captions are drawn with follows from its own key, so the same texts come out whatever the number
of devices, the size of batches, or restarts. Processes that were started together
(train/distributed.py) take turns at the shards; else one works on a folder at a time.
"""

import dataclasses
import json
from collections.abc import Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath

from blip_jax.capfilt import scores
from blip_jax.capfilt.assemble import beside
from blip_jax.data.images import ImageError, decode, resize
from blip_jax.data.pipeline import stable_hash
from blip_jax.data.sources import open_dataset, to_text
from blip_jax.data.text import clean_caption
from blip_jax.decoding import Decoding
from blip_jax.errors import UserError
from blip_jax.inference import Model
from blip_jax.inference.programs import captioner, example_keys, matcher, prompt_of
from blip_jax.train.distributed import meet
from blip_jax.train.signals import Interrupted, Interruptible


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is captioned and how.

    Attributes:
      dataset, split: the input (data/sources.py).
      output: folder of the scored dataset.
      decoding: of the captioner.
      captions: how many to write for each image, in place of `decoding.captions`.
      batch_size: images a device at a time.
      shard_rows: rows of the input in a shard.
      seed: of the draws.
    """

    dataset: str
    split: str
    output: str
    decoding: Decoding = Decoding()
    captions: int = 1
    batch_size: int = 64
    shard_rows: int = 1024
    seed: int = 0

    def __post_init__(self):
        decoding = dataclasses.replace(self.decoding, captions=self.captions)
        object.__setattr__(self, "decoding", decoding)


def run(settings: Settings, writer: Model, judge: Model) -> str:
    """Captions every image with `writer` and scores all texts with `judge`.

    Returns: the folder of the scored dataset, `settings.output`.

    Raises:
      UserError: bad input, or an output folder that another run has written to.
      Interrupted: a signal came; shards done stay, and the same call goes on behind them.
    """
    if set(settings.split) & set("[]:+"):  # row i of the scores is row i of the split
        raise UserError(f"split is {settings.split!r}; capfilt takes a whole split, by its name")
    source = open_dataset(settings.dataset, settings.split)
    output = epath.Path(settings.output)
    starts = range(0, len(source), settings.shard_rows)
    main, turns = jax.process_index() == 0, jax.process_count()
    if main:
        output.mkdir(parents=True, exist_ok=True)
        scores.check_shards(settings.output, settings.split, len(starts))
        _claim(output / "settings.json", settings)
        for leftover in output.glob("incomplete-*"):
            leftover.unlink()
    meet("capfilt's folder is there")
    work = Work(settings, writer, judge)
    with (
        Interruptible() as interruption,
        tqdm.tqdm(
            total=len(source), desc="capfilt", unit="image", disable=None if main else True
        ) as bar,
    ):
        for number, start in enumerate(starts):
            stop = min(start + settings.shard_rows, len(source))
            path = scores.shard_path(settings.output, settings.split, number, len(starts))
            if number % turns == jax.process_index() and not path.exists():
                rows = []
                for batch in batches(source, range(start, stop), settings, work.sizes):
                    rows += work.rows(batch)
                    bar.update(len(batch))
                    if interruption.requested:
                        message = f"stopped in shard {number} of {len(starts)}"
                        raise Interrupted(message, interruption.number)
                scores.write_shard(path, rows)
            else:
                bar.update(stop - start)
    lengths = [min(settings.shard_rows, len(source) - start) for start in starts]
    meet("capfilt's shards are done")
    if not main:
        return settings.output
    description = f"Texts and scores of CapFilt for {settings.dataset}, split {settings.split}."
    scores.finish(settings.output, settings.split, lengths, description)
    return settings.output


def _claim(path: epath.Path, settings: Settings) -> None:
    """Refuses to mix rows of two settings in one folder."""
    values = dataclasses.asdict(settings)
    del values["batch_size"], values["output"]  # of no consequence for the rows
    values["dataset"] = beside(settings.dataset, path.parent)
    text = json.dumps(values, indent=1)
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path.parent} was begun with other settings: use a new folder")
    path.write_text(text)


def batches(source, rows: range, settings: Settings, sizes: set[int]) -> Iterator[list[dict]]:
    """Examples of the rows in order, decoded ahead of time by threads."""

    def load(row: int) -> dict:
        record = source[row]
        example = {
            "key": to_text(record["key"]),
            "texts": [to_text(text) for text in record["texts"]],
            "status": "ok",
        }
        try:
            image = decode(record["image"])
            return {**example, "image": {size: resize(image, size) for size in sizes}}
        except ImageError as error:
            blank = {size: np.zeros((size, size, 3), np.uint8) for size in sizes}
            return {**example, "image": blank, "status": f"undecodable image: {error}"}

    size = settings.batch_size * jax.local_device_count()
    loaded = grain.MapDataset.source(rows).map(load).batch(size, batch_fn=list)
    yield from loaded.to_iter_dataset(grain.ReadOptions(2, 4))


class Work:
    """Both programs, compiled once a shape, and what goes in and out of them."""

    def __init__(self, settings: Settings, writer: Model, judge: Model):
        self.settings, self.writer, self.judge = settings, writer, judge
        self.write = captioner(writer, settings.decoding)
        self.match = matcher(judge)
        self.sizes = {writer.image_size, judge.image_size}

    def rows(self, examples: list[dict]) -> list[dict]:
        """The finished rows of a batch, which may be shorter than the programs' batch."""
        size = self.settings.batch_size * jax.local_device_count()
        padded = examples + [examples[-1]] * (size - len(examples))
        texts = [
            [_entry(text, "web") for text in example["texts"]] + written
            for example, written in zip(padded, self.captions(padded), strict=True)
        ]
        self.score(padded, texts)
        finished = []
        for example, entries in zip(examples, texts, strict=False):
            if example["status"] != "ok":  # nothing was seen: no caption, and no score is true
                entries = [_entry(text, "web") for text in example["texts"]]
            row = {"key": example["key"], "status": example["status"], "texts": entries}
            finished.append(row)
        return finished

    def captions(self, examples: list[dict]) -> list[list[dict]]:
        """`settings.captions` synthetic texts an image."""
        images = np.stack([example["image"][self.writer.image_size] for example in examples])
        hashes = np.array([stable_hash(example["key"]) for example in examples])
        prompt = len(prompt_of(self.writer))
        numbers = range(self.settings.captions)
        keys = [example_keys(self.settings.seed, hashes, number) for number in numbers]
        generated = self.write(images, jnp.stack(keys, axis=1))
        log_probability = generated.log_probabilities.sum(axis=-1)
        decode = self.writer.tokenizer.decode
        return [
            [
                {**_entry(text, "synthetic"), "log_probability": float(logp)}
                for text, logp in zip(decode(tokens[:, prompt:]), values, strict=True)
            ]
            for tokens, values in zip(generated.tokens, log_probability, strict=True)
        ]

    def score(self, examples: list[dict], texts: list[list[dict]]) -> None:
        """Fills in the scores of all texts that are not empty."""
        images = np.stack([example["image"][self.judge.image_size] for example in examples])
        count, length = max(map(len, texts)), self.judge.max_length
        cleaned = [[clean_caption(entry["text"]) for entry in entries] for entries in texts]
        flat = [text for row in cleaned for text in row + [""] * (count - len(row))]
        ids, mask = self.judge.tokenizer.encode(flat, length)
        shape = len(examples), count, length
        logits, cosine = self.match(images, ids.reshape(shape), mask.reshape(shape))
        tokens = mask.reshape(shape).sum(-1)
        for i, entries in enumerate(texts):
            for j, entry in enumerate(entries):
                if cleaned[i][j]:
                    no, yes = (float(x) for x in logits[i, j])
                    entry.update(
                        itm_logits=logits[i, j],
                        p_match=float(1 / (1 + np.exp(no - yes))),
                        cosine=float(cosine[i, j]),
                        tokens=int(tokens[i, j]),
                    )


def _entry(text: str, origin: str) -> dict:
    nothing = float("nan")
    return {
        "text": text,
        "origin": origin,
        "itm_logits": np.full(2, np.nan, np.float32),
        "p_match": nothing,
        "cosine": nothing,
        "log_probability": nothing,
        "tokens": 0,
    }
