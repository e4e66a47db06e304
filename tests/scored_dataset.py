"""A scored dataset of the Shapes dataset with its index, made without a model.

Scores are drawn at random around the truth, so that they can be measured. One image does not
decode, one text is empty, and some images are marked as copies of others.
"""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import tiny_dataset

from blip_jax.capfilt import provenance, storage
from blip_jax.data.synthetic.builder import ShapesConfig, make_record
from blip_jax.data.synthetic.oracle import check, scene_of
from blip_jax.data.synthetic.scenes import World
from blip_jax.data.text import clean_caption

ROWS, BROKEN, EMPTY, SHARD = 240, 7, 11, 100
EXACT, NEAR = range(200, 210), range(210, 220)  # copies of the rows 200 before
SOURCES, LICENCES = ("laion", "cc12m"), ("CC BY 4.0", "CC BY-SA 4.0")
WEB = ShapesConfig(kind="web", world=World(image_size=32), train=ROWS, val=0, test=0, seed=3)
PROVENANCE = {
    "split": "train",
    "captioners": [{"name": "writer", "path": "runs/captioner", "sha256": "ab" * 32}],
    "decoding": [{"method": "nucleus", "num_captions": 1, "top_p": 0.9}],
    "seed": 0,
    "version": "1.0",
}


@dataclasses.dataclass(frozen=True)
class Scored:
    """Folders of the images and of their scores, and whether each text is true, in order."""

    images: str
    scores: str
    true: np.ndarray


def build(
    folder, filters: tuple[str, ...] = ("judge",), written: int = 1, extra: tuple[str, ...] = ()
) -> Scored:
    """Writes both below `folder`.

    Args:
      filters: names; the first is the best.
      written: synthetic texts an image: those of the images that follow, and so mostly false.
      extra: names of extra scores, which are normally distributed.
    """
    folder = pathlib.Path(folder)
    records = [make_record(row, "train", WEB) for row in range(ROWS)]
    records[EMPTY]["texts"] = ["..."]
    own = [[r["texts"][0], *(records[(i + n) % ROWS]["texts"][0] for n in range(written))]
           for i, r in enumerate(records)]  # fmt: skip
    records[BROKEN]["image"] = b"no image"
    images = tiny_dataset.write(str(folder / "web"), records)
    write_index(images, records)
    rng, rows, true = np.random.default_rng(0), [], []
    for row, (record, texts) in enumerate(zip(records, own, strict=True)):
        texts = texts[:1] if row == BROKEN else texts
        scene = scene_of(record["truth"])
        good = [check(clean_caption(text), scene).true for text in texts]
        blind = [row == BROKEN or not clean_caption(text) for text in texts]
        entries = [
            entry(text, place, rng, is_true, unseen, len(filters))
            for place, (text, is_true, unseen) in enumerate(zip(texts, good, blind))
        ]
        status = "undecodable image: no bytes" if row == BROKEN else "ok"
        rows.append({"key": record["key"], "status": status, "texts": entries})
        if extra:
            scores = rng.normal(size=len(extra)) if status == "ok" else np.full(len(extra), np.nan)
            rows[-1]["extra_scores"] = scores.astype(np.float32)
        true += good
    return Scored(images, write_scores(folder / "scores", rows, filters, extra), np.array(true))


def entry(text, place, rng, is_true, unseen, filters) -> dict:
    """A text whose P(match) is about what it should be, less so by each further filter."""
    logit = (2.0 if is_true else -2.0) + rng.normal(size=filters) * (2 + np.arange(filters))
    logit = np.where(unseen, np.nan, logit).astype(np.float32)
    return {
        "text": text,
        "origin": "synthetic" if place else "web",
        "model": "writer" if place else "",
        "method": "nucleus" if place else "",
        "itm_logits": np.stack([-logit / 2, logit / 2], axis=1),
        "p_match": 1 / (1 + np.exp(-logit)),
        "cosine": np.tanh(logit / 4),
        "log_probability": np.float32(-3 * place if place else np.nan),
        "tokens": len(text.split()) + 2,
    }


def write_scores(
    folder: pathlib.Path, rows: list[dict], filters: tuple[str, ...], extra: tuple[str, ...] = ()
) -> str:
    folder.mkdir(parents=True)
    starts = range(0, len(rows), SHARD)
    for number, start in enumerate(starts):
        path = storage.shard_path(str(folder), "train", number, len(starts))
        storage.write_shard(path, rows[start : start + SHARD], len(filters), len(extra))
    lengths = [len(rows[start : start + SHARD]) for start in starts]
    storage.finish(str(folder), "train", lengths, "", len(filters), len(extra))
    judges = [{"name": n, "path": f"runs/{n}", "sha256": "cd" * 32} for n in filters]
    others = [{"name": name, "path": f"mine:{name}", "sha256": ""} for name in extra]
    found = {"dataset": "../web", "filters": judges, "extra_scores": others, **PROVENANCE}
    provenance.write(str(folder), found)
    return str(folder)


def write_index(images: str, records: list[dict]) -> None:
    """Writes the index that `prepare` writes into the folder of a dataset."""
    rows = np.arange(len(records))
    copies = np.isin(rows, [*EXACT, *NEAR])
    table = pa.table({
        "key": [record["key"] for record in records],
        "url": [f"https://example.org/{row}.png" for row in rows],
        "source": [SOURCES[row % 2] for row in rows],
        "sha256": [f"{row:064x}" for row in rows],
        "phash": [f"{row:016x}" for row in rows],
        "width": pa.array(rows * 0 + 32, pa.int32()),
        "height": pa.array(rows * 0 + 32, pa.int32()),
        "license": [None if row % 3 == 2 else LICENCES[row % 3] for row in rows],
        "duplicate_of": pa.array(np.where(copies, rows - 200, -1), pa.int64()),
        "distance": pa.array(
            np.where(np.isin(rows, EXACT), 0, np.where(np.isin(rows, NEAR), 3, -1)), pa.int8()
        ),
    })  # fmt: skip
    pa.parquet.write_table(table, f"{images}/index.parquet")
