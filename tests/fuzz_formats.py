"""Valid small files of every format that is read, and what reads each."""

import contextlib
import csv
import io
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import malformed_files
import numpy as np
import pyarrow.parquet
import scored_dataset
import tiny
from PIL import Image

from blip_jax import checkpoints, nn
from blip_jax.capfilt import mixture, provenance, storage
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.data import ingest
from blip_jax.data.images import decode
from blip_jax.data.ingest import IngestConfig
from blip_jax.data.mixture import RecordSource, load_mixture
from blip_jax.data.tokenizer import Tokenizer, train_wordpiece
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.tasks.evaluate import read_predictions
from blip_jax.train.config import TrainConfig


class Format(NamedTuple):
    """A format: the file's valid content, and what reads it.

    Attributes:
      file: that is mutated, in a folder of the format.
      read: takes the file's path.
      is_json: mutate values, too. lines: JSON by lines.
    """

    file: pathlib.Path
    read: Callable[[pathlib.Path], Any]
    is_json: bool = False
    lines: bool = False


def _read_all(path: pathlib.Path) -> None:
    dict(tensor_files.read(str(path)))


def formats(root: pathlib.Path) -> dict[str, Format]:
    """Writes a valid file of each format below a folder, and returns them by name."""
    words = ["a red square", "two dogs", "a picture of a circle and a blue triangle"]
    tokenizer = train_wordpiece(words, str(root / "vocab"), 60)
    size = tokenizer.ids.vocab_size
    config = tiny.config(med={"vocab_size": size})
    model = checkpoints.Checkpoint(
        "captioner", config, tiny.init(config, 0, "captioner"), tokenizer=tokenizer
    )
    found = {}
    for suffix in ("pth", "safetensors"):
        path = root / f"original.{suffix}"
        checkpoints.write(model, str(path), "original")
        found[suffix] = Format(path, lambda path: checkpoints.read(str(path)))
    tensors = dict(tensor_files.read(str(root / "original.safetensors")))
    np.savez(root / "x.npz", **tensors)
    found["npz"] = Format(root / "x.npz", _read_all)

    checkpoints.write(model, str(root / "hf"), "hf")
    checkpoints.write(model, str(root / "shards"), "hf")
    shard = "model-00001-of-00001.safetensors"
    (root / "shards" / "model.safetensors").rename(root / "shards" / shard)
    names = list(tensor_files.read(str(root / "shards" / shard)))
    index = root / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))

    def read_folder(path: pathlib.Path) -> None:
        checkpoints.read(str(path.parent))

    found["hf config"] = Format(root / "hf" / "config.json", read_folder, is_json=True)
    found["shard index"] = Format(index, read_folder, is_json=True)

    def read_tokenizer(path: pathlib.Path) -> None:
        Tokenizer.load(str(path.parent)).encode(words, 12)

    settings = root / "settings"
    tokenizer.save(str(settings))
    found["vocab.txt"] = Format(root / "vocab" / "vocab.txt", read_tokenizer)
    found["tokenizer_config"] = Format(
        settings / "tokenizer_config.json", read_tokenizer, is_json=True
    )
    (root / "fast").mkdir()
    (root / "fast" / "tokenizer.json").write_text(tokenizer._backend.to_str())
    found["tokenizer.json"] = Format(root / "fast" / "tokenizer.json", read_tokenizer, is_json=True)

    scored = scored_dataset.build(root / "scored")
    table = storage.read(scored.scores, "train")
    source = mixture.ScoredDataset(scored.images, "train", scored.scores)
    kept = mixture.select_by_threshold(table, storage.ORIGINS, 0.5)
    path = root / "mixture" / "mixture.json"
    mixture.write_mixture(str(path), None, source, table, kept, 0.0)
    found["mixture"] = Format(path, _read_mixture, is_json=True)
    (pairs,) = path.parent.glob("*.npy")
    found["mixture pairs"] = Format(pairs, lambda pairs, path=path: _read_mixture(path))
    scores = pathlib.Path(scored.scores)
    for name, pattern in (("scores", "*.array_record-00000-*"), ("features", "features.json")):
        (path,) = scores.glob(pattern)
        found[name] = Format(
            path, lambda path: storage.read(str(path.parent), "train"), is_json=name == "features"
        )
    found["provenance"] = Format(
        scores / "provenance.json",
        lambda path: provenance.read(str(path.parent)),
        is_json=True,
    )
    run = root / "run"
    check_fingerprint(run, "train", {"config": {"seed": 0}}, begun=False)
    found["fingerprint"] = Format(
        run / "fingerprint.json",
        lambda path: check_fingerprint(path.parent, "train", {"config": {"seed": 0}}, begun=True),
        is_json=True,
    )
    found |= import_formats(root / "import")
    run = run / "config.json"
    run.write_text(json.dumps(to_json(TrainConfig())))
    found["run config"] = Format(run, _read_run, is_json=True)
    predictions = root / "predictions.jsonl"
    predictions.write_text("".join(f'{{"key": "{n}", "caption": "a dog"}}\n' for n in range(3)))
    found["predictions"] = Format(
        predictions, lambda path: read_predictions(str(path)), is_json=True, lines=True
    )
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        file = io.BytesIO()
        options = {} if name in ("GIF", "BMP") else {"exif": exif}
        Image.fromarray(pixels).save(file, name, **options)
        path = root / f"image.{name.lower()}"
        path.write_bytes(file.getvalue())
        found[name] = Format(path, lambda path: decode(path.read_bytes()))
    return found


def import_formats(root: pathlib.Path) -> dict[str, Format]:
    """Writes a small file of each format that `prepare` imports below a folder."""
    images = root / "images"
    images.mkdir(parents=True)
    for number in range(3):
        (images / f"{number}.jpg").write_bytes(malformed_files.jpeg(number))
    rows = [{"image": f"{number}.jpg", "text": f"a dog, {number}"} for number in range(3)]
    malformed_files.write_tar(
        root / "x.tar",
        [(str(n), {"jpg": malformed_files.jpeg(n), "json": json.dumps(row).encode()})
         for n, row in enumerate(rows)],
    )  # fmt: skip
    (root / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "x.json").write_text(json.dumps(rows))
    with (root / "x.csv").open("w") as file:
        writer = csv.DictWriter(file, ["image", "text"])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "x.parquet")
    coco = {
        "images": [{"id": n, "file_name": row["image"]} for n, row in enumerate(rows)],
        "annotations": [{"image_id": n, "caption": row["text"]} for n, row in enumerate(rows)],
    }
    (root / "coco.json").write_text(json.dumps(coco))

    def read(path: pathlib.Path) -> None:
        config = IngestConfig(source=str(path), images=str(images), workers=1)
        with (
            tempfile.TemporaryDirectory() as out,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            ingest.run(config, f"{out}/dataset")

    names = {"tar": "x.tar", "json lines": "x.jsonl", "json list": "x.json", "csv": "x.csv",
             "parquet": "x.parquet", "coco": "coco.json"}  # fmt: skip
    lines = {"json lines"}
    return {
        name: Format(root / file, read, is_json="json" in file, lines=name in lines)
        for name, file in names.items()
    }


def _read_mixture(path: pathlib.Path) -> None:
    for component in load_mixture(str(path)):
        RecordSource(component)


def _read_run(path: pathlib.Path) -> None:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        return
    nn.param_shapes(from_json(TrainConfig, values).model, "pretrain")
