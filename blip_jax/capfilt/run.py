"""Caption and score a dataset, shard by shard, on any number of hosts, stopped anywhere.

A shard is a run of rows of the input, the unit of work: it is computed whole, written under a
temporary name and renamed. What is there already is not done again. The key that an image's
captions are drawn with follows from its own key, so the same texts come out whatever the number
of hosts, devices, batches or restarts; scores are the same to the last bit for hosts with equal
numbers of devices and equal `batch_size`.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping

import grain
import jax
import numpy as np
import tqdm
from etils import epath

import blip_jax
from blip_jax.capfilt import provenance, storage
from blip_jax.capfilt.generate import Work
from blip_jax.capfilt.inputs import Input
from blip_jax.capfilt.work_queue import LIFETIME, Shards
from blip_jax.data.images import ImageError, decode, resize
from blip_jax.decoding import Decoding
from blip_jax.models import Model
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import relative_path
from blip_jax.runtime.signals import Interrupted, SignalHandler

AHEAD = 4  # batches that are read while the devices work


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is captioned and how.

    Attributes:
      dataset: the input: a dataset's folder, or the mixture file of an earlier round (inputs.py).
      split: of it.
      output: folder of the scored dataset.
      ways: how each captioner writes, with `captions` texts of each way.
      batch_size: images a device at a time.
      shard_rows: rows of the input in a shard.
      seed: of the draws.
      command: what was called, for the dataset's card.
      lifetime: seconds after which other hosts take over the shard of one that is silent.
    """

    dataset: str
    split: str
    output: str
    ways: tuple[Decoding, ...] = (Decoding(),)
    batch_size: int = 64
    shard_rows: int = 1024
    seed: int = 0
    command: str = ""
    lifetime: float = LIFETIME


def run(
    settings: Settings,
    captioners: Mapping[str, tuple[str, Model]],
    filters: Mapping[str, tuple[str, Model]],
) -> str:
    """Captions every image with each captioner and scores all texts with each filter.

    Args:
      captioners, filters: by name: where the model came from, and the model. No captioners: only
        what is there is scored.

    Returns: the folder of the scored dataset, `settings.output`, once all its shards are there.

    Raises:
      UserError: bad input, or an output folder that another run has written to.
      Interrupted: a signal came; shards done stay, and the same call goes on behind them.
    """
    if not filters:
        raise UserError("capfilt needs a filter: without one no text has a score")
    source = Input(settings.dataset, settings.split, len(filters))
    output, split = epath.Path(settings.output), source.split
    output.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(source), settings.shard_rows)
    storage.check_shards(settings.output, split, len(starts))
    _claim(settings, source, captioners, filters)
    paths = [storage.shard_path(settings.output, split, i, len(starts)) for i in range(len(starts))]
    models = [{name: model for name, (_, model) in x.items()} for x in (captioners, filters)]
    size = settings.batch_size * jax.local_device_count()
    work = Work(*models, settings.ways, size, settings.seed)
    with (
        SignalHandler() as signals,
        Shards(paths, settings.lifetime) as shards,
        tqdm.tqdm(total=len(source), desc="capfilt", unit="image", disable=_silent()) as bar,
    ):
        for number in shards.each(lambda: signals.requested):
            bar.n = min(len(shards.done()) * settings.shard_rows, len(source))  # of all hosts
            rows = range(len(source))[starts[number] : starts[number] + settings.shard_rows]
            made, times = [], Waiting()
            for batch in work.rows(times.of(batches(source, rows, size, work.sizes))):
                made += batch
                bar.update(len(batch))
                if signals.requested:
                    break
            if signals.requested:
                break
            storage.write_shard(paths[number], made, len(filters))
            shards.finished(number, {"rows": len(made), **times.found(), **counted(made)})
        if signals.requested and len(shards.done()) < len(paths):
            message = f"stopped with {len(shards.done())} of {len(paths)} shards done"
            raise Interrupted(message, signals.number)
        _finish(settings, source, paths, shards.records(), len(filters))
    return settings.output


def _silent() -> bool | None:
    """Of several processes the first alone shows a bar, and only on a terminal."""
    return True if jax.process_index() else None


def _claim(settings: Settings, source: Input, captioners: Mapping, filters: Mapping) -> None:
    """Writes down what makes the rows, and refuses to mix those of two settings in a folder.

    Raises:
      UserError: the folder was begun with other settings.
    """
    folder = epath.Path(settings.output)
    found = {
        "dataset": relative_path(source.dataset, folder),
        "split": source.split,
        "captioners": [described(name, *own) for name, own in captioners.items()],
        "filters": [described(name, *own) for name, own in filters.items()],
        "decoding": [dataclasses.asdict(way) for way in settings.ways],
        "seed": settings.seed,
        "shard_rows": settings.shard_rows,
    }
    if settings.dataset.endswith(".json"):
        found["texts"] = relative_path(settings.dataset, folder)
    before = provenance.read(settings.output)
    if before:
        theirs = {name: before.get(name) for name in found}
        ours = json.loads(json.dumps(found))
        # A folder may be moved together with its images, and models may lie elsewhere.
        theirs["dataset"] = relative_path(theirs["dataset"], folder)
        other = [name for name in found if without_path(theirs[name]) != without_path(ours[name])]
        if other:
            raise UserError(
                f"{folder} was begun with other settings ({', '.join(other)}): use a new folder"
            )
    else:
        found |= {"version": blip_jax.__version__, "command": settings.command}
        provenance.write(settings.output, found)


def described(name: str, path: str, model: Model) -> dict[str, str]:
    """A model's name, where it came from, and a hash of its parameters."""
    digest = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(jax.tree_util.keystr(place).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)))
    return {"name": name, "path": path, "sha256": digest.hexdigest()}


def without_path(value: object) -> object:
    """Settings but for where models lay."""
    if isinstance(value, list):
        return [{k: v for k, v in entry.items() if k != "path"} for entry in value]
    return value


def batches(source: Input, rows: range, size: int, sides: set[int]) -> Iterator[list[dict]]:
    """Examples of the rows in order (`work.Batch`), read and decoded ahead of time by threads."""

    def load(row: int) -> dict:
        record = source[row]
        try:
            image = decode(record["image"])
            pixels = {side: resize(image, side) for side in sides}
            return {**record, "image": pixels, "status": "ok"}
        except ImageError as error:
            blank = {side: np.zeros((side, side, 3), np.uint8) for side in sides}
            return {**record, "image": blank, "status": f"undecodable image: {error}"}

    threads = max(2, (os.cpu_count() or 2) - 1)
    loaded = grain.MapDataset.source(rows).map(load)
    # Examples and not batches are read ahead, so that many threads work at one batch.
    examples = iter(loaded.to_iter_dataset(grain.ReadOptions(threads, AHEAD * size)))
    for start in range(0, len(rows), size):
        yield [next(examples) for _ in range(min(size, len(rows) - start))]


class Waiting:
    """How long something took, and how much of it was waiting for the next batch."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._begun, self._waited = now, now(), 0.0

    def of(self, batches: Iterator[list[dict]]) -> Iterator[list[dict]]:
        while True:
            asked = self._now()
            batch = next(batches, None)
            self._waited += self._now() - asked
            if batch is None:
                return
            yield batch

    def found(self) -> dict[str, float]:
        seconds = self._now() - self._begun
        return {"seconds": round(seconds, 2), "waited for images": round(self._waited, 2)}


def counted(rows: list[dict]) -> dict[str, dict[str, int]]:
    """Images by status."""
    names, counts = np.unique([row["status"] for row in rows], return_counts=True)
    return {"status": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def _finish(
    settings: Settings, source: Input, paths: list[epath.Path], records: list[dict], filters: int
) -> None:
    """Makes a TFDS dataset of the shards; every host does, and all write the same."""
    folder = epath.Path(settings.output)
    lengths = [
        min(settings.shard_rows, len(source) - i * settings.shard_rows) for i in range(len(paths))
    ]
    shards = [{"file": x.name, **record} for x, record in zip(paths, records, strict=True)]
    manifest = {"rows": len(source), "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    description = f"Texts and scores of CapFilt for {source.dataset}, split {source.split}."
    storage.finish(settings.output, source.split, lengths, description, filters)
