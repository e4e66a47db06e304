"""Mutates valid small files of every format that is read: reading gives a result or a UserError.

python tests/fuzz.py [COUNT] [FORMAT ...]   COUNT mutations of each format (default 200)

Bytes are flipped, cut, doubled and zeroed; values of JSON are replaced by extreme ones. Another
exception than UserError (of images: ImageError), or more than 30 seconds, is a failure.
"""

import collections
import contextlib
import copy
import csv
import io
import json
import pathlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
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
from blip_jax.data.images import ImageError, decode
from blip_jax.data.ingest import IngestConfig
from blip_jax.data.mixture import RecordSource, load_mixture
from blip_jax.data.tokenizer import Tokenizer, train_wordpiece
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.tasks.evaluate import read_predictions
from blip_jax.train.config import TrainConfig

SECONDS = 30
EXTREMES = [
    None, True, False, -1, 0, 1, 10**12, -(10**30), 10**400, 1e308, -0.5, float("nan"),
    float("inf"), "", "x" * 5000, "../../x", "\ud800", "\0", "https://a.b/c", [], {}, [[]],
    {"a": None}, [1, "a", None],
]  # fmt: skip
DEEP = "[" * 100_000


class TooSlow(BaseException):
    """Reading took longer than SECONDS."""


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


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns bytes that are flipped, cut, doubled, zeroed or exchanged somewhere."""
    array = bytearray(data)
    # The heads of files say most.
    end = len(data) if rng.random() < 0.5 else min(len(data), 400)
    start = int(rng.integers(end))
    stop = min(len(data), start + int(rng.integers(1, 64)))
    way = rng.integers(5)
    if way == 0:
        for _ in range(rng.integers(1, 9)):
            array[rng.integers(end)] = rng.integers(256)
    elif way == 1:
        del array[start:]
    elif way == 2:
        array[start:start] = array[start:stop] * int(rng.integers(1, 4))
    elif way == 3:
        array[start:stop] = bytes([rng.choice([0, 255])]) * (stop - start)
    else:
        del array[start:stop]
    return bytes(array)


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, entry in value.items() if isinstance(value, dict) else ():
        yield from _places(entry, (*path, key))


def mutated_json(text: str, rng: np.random.Generator) -> str:
    """Returns JSON of which one value is replaced by an extreme one, left out, or nested deeply."""
    value = copy.deepcopy(json.loads(text))
    places = list(_places(value))
    # As many of each depth: there are thousands of words in a vocabulary, and one list of these.
    depth = rng.choice(sorted({len(place) for place in places}))
    place = [place for place in places if len(place) == depth][
        rng.integers(sum(len(place) == depth for place in places))
    ]
    extreme = EXTREMES[rng.integers(len(EXTREMES))]
    if not place:
        return json.dumps(extreme)
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    way = rng.integers(8)
    if way == 0:
        del parent[place[-1]]
    elif way == 1:
        parent[place[-1]] = "DEEP"
        return json.dumps(value).replace('"DEEP"', DEEP)
    else:
        parent[place[-1]] = extreme
    return json.dumps(value)


def mutated(format: Format, data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a mutation of a format's valid content."""
    if not format.is_json or rng.random() < 0.3:
        return mutated_bytes(data, rng)
    text = data.decode()
    if format.lines:
        lines = text.splitlines()
        number = rng.integers(len(lines))
        lines[number] = mutated_json(lines[number], rng)
        return ("\n".join(lines) + "\n").encode()
    return mutated_json(text, rng).encode()


def outcome(format: Format) -> str:
    """Returns "read" or "refused" of the file as it is.

    Raises:
      Exception: that is not a UserError or ImageError, or a message of several lines.
      TooSlow: reading takes too long.
    """

    def stop(number: int, frame: Any):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        format.read(format.file)
    except (UserError, ImageError) as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {str(error)[:300]!r}") from error
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "read"


def fuzz(
    root: pathlib.Path, count: int, only: tuple[str, ...] = (), seed: int = 0
) -> tuple[dict[str, collections.Counter], list[str]]:
    """Returns how many mutations of each format were read and refused, and the failures."""
    counts, failures = {}, []
    for name, format in formats(root).items():
        if only and name not in only:
            continue
        data, rng = format.file.read_bytes(), np.random.default_rng(seed)
        counts[name] = collections.Counter()
        format.read(format.file)  # valid; also imports what is needed
        started = time.monotonic()
        for number in range(count):
            content = mutated(format, data, rng)
            format.file.write_bytes(content)
            try:
                counts[name][outcome(format)] += 1
            except (Exception, TooSlow) as error:
                counts[name]["failed"] += 1
                where = traceback.extract_tb(error.__traceback__)
                own = [x for x in where if "blip_jax/" in x.filename] or where
                place = f"{pathlib.Path(own[-1].filename).name}:{own[-1].lineno}"
                failures.append(
                    f"{name} {number}: {type(error).__name__} at {place}: {str(error)[:200]!r}"
                )
        format.file.write_bytes(data)
        counts[name]["seconds"] = round(time.monotonic() - started)
    return counts, failures


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(pathlib.Path(folder), count, tuple(sys.argv[2:]))
    for name, found in counts.items():
        print(f"{name:18} {dict(found)}")
    print(*failures, f"{len(failures)} failures", sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
