"""Captions and scores a dataset shard by shard, on any number of hosts; it can be resumed.

A shard is a range of rows of the input and the unit of work: it is written under a temporary name
and renamed when complete. Shards that exist are not computed again. The random key of an image's
captions is derived from the image's own key, so the texts do not depend on the number of hosts,
devices, batches or restarts; scores are equal to the last bit for hosts with equal numbers of
devices and equal `batch_size`.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np
from etils import epath

from blip_jax.capfilt import resume, storage
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.capfilt.generate import CaptionScorer
from blip_jax.capfilt.inputs import CapFiltInput
from blip_jax.capfilt.work_queue import ShardQueue
from blip_jax.data.images import ImageError, decode, resize
from blip_jax.models import Model
from blip_jax.runtime.files import write_json
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.runtime.progress import Progress
from blip_jax.runtime.signals import Interrupted, SignalHandler

AHEAD = 4  # batches that are read ahead of the devices


def run(
    settings: ScoringConfig,
    captioners: Mapping[str, tuple[str, Model]],
    filters: Mapping[str, tuple[str, Model]],
    begin: Callable[[], None] = lambda: None,
) -> str:
    """Captions every image with each captioner and scores all texts with each filter.

    Args:
      captioners, filters: name to (path, model). Without captioners only the existing texts are
        scored.
      begin: called when nothing stands against the run, before the first image.

    Returns: the folder of the scored dataset, `settings.output`, when all shards are written.

    Raises:
      UserError: bad input, a model that cannot do it, or the output folder holds another run. If it
        is raised before the first image, nothing is written.
      Interrupted: a signal came; finished shards are kept, and the same call resumes.
    """
    source = CapFiltInput(settings.dataset, settings.split, len(filters))
    output, split = epath.Path(settings.output), source.split
    resume.check_models(captioners, filters)
    models = [{name: model for name, (_, model) in x.items()} for x in (captioners, filters)]
    size = settings.batch_size * jax.local_device_count()
    upright = all(m.config.exif_orientation for group in models for m in group.values())
    scorer = CaptionScorer(*models, settings.decodings, size, settings.seed)
    starts = range(0, len(source), settings.shard_rows)
    paths = [storage.shard_path(settings.output, split, i, len(starts)) for i in range(len(starts))]
    found = {
        role: [resume.describe(role[:-1], name, *own) for name, own in x.items()]
        for role, x in (("captioners", captioners), ("filters", filters))
    }
    same = resume.fingerprint(settings, source, found, captioners, filters)
    resume.check_same_run(settings, source, found, same, ShardQueue(paths))
    begin()
    with (
        SignalHandler() as signals,
        ShardQueue(paths, settings.lease_seconds) as shards,
        _ImageProgress(shards, settings.shard_rows, len(source)) as progress,
    ):
        for number in shards.claim_shards(lambda: signals.requested):
            progress.count_shards()
            rows = range(len(source))[starts[number] : starts[number] + settings.shard_rows]
            rows_done, times = [], InputWaitTimer()
            examples = batches(source, rows, size, scorer.sizes, upright)
            for batch in scorer.rows(times.track(examples)):
                rows_done += batch
                progress.update(len(batch))
                if signals.requested:
                    break
            if signals.requested:
                break
            # Another host may have begun with other settings.
            check_fingerprint(output, "capfilt", same, begun=True, free=resume.FREE)
            storage.write_shard(paths[number], rows_done, len(filters))
            shards.finished(
                number, {"rows": len(rows_done), **times.seconds(), **count_by_status(rows_done)}
            )
        progress.count_shards()
        if signals.requested and (done := len(shards.done())) < len(paths):
            raise Interrupted(
                f"stopped with {done} of {len(paths)} shards done; rerun the same command to "
                "resume",
                signals.number,
            )
        _finish(settings, source, paths, shards.records(), len(filters))
    return settings.output


class _ImageProgress(Progress):
    """Shows images done by all hosts, in the first process only."""

    def __init__(self, shards: ShardQueue, shard_rows: int, total: int):
        self._shards, self._shard_rows, self._images = shards, shard_rows, total
        self._shown = self._images_done()
        enabled = jax.process_index() == 0
        super().__init__("capfilt", total, "image", initial=self._shown, enabled=enabled)

    def update(self, count: int = 1, **notes: Any) -> None:
        self._shown += count
        super().update(count, **notes)

    def count_shards(self) -> None:
        """Adds the shards that other hosts have finished since the last call."""
        self.update(self._images_done() - self._shown)

    def _images_done(self) -> int:
        return min(len(self._shards.done()) * self._shard_rows, self._images)


def batches(
    source: CapFiltInput, rows: range, size: int, sides: set[int], exif_orientation: bool
) -> Iterator[list[dict]]:
    """Yields batches of examples (`generate.BatchInFlight`) of the rows, read ahead by threads."""

    def load(row: int) -> dict:
        record = source[row]
        try:
            image = decode(record["image"], exif_orientation)
            pixels = {side: resize(image, side) for side in sides}
            return {**record, "image": pixels, "status": "ok"}
        except ImageError as error:
            blank = {side: np.zeros((side, side, 3), np.uint8) for side in sides}
            return {**record, "image": blank, "status": f"undecodable image: {error}"}

    threads = max(2, (os.cpu_count() or 2) - 1)
    loaded = grain.MapDataset.source(rows).map(load)
    # Reads ahead by example instead of by batch, so that several threads work on one batch.
    examples = iter(loaded.to_iter_dataset(grain.ReadOptions(threads, AHEAD * size)))
    for start in range(0, len(rows), size):
        yield [next(examples) for _ in range(min(size, len(rows) - start))]


class InputWaitTimer:
    """Measures seconds in all and seconds spent waiting for the next batch."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._started, self._waited = now, now(), 0.0

    def track(self, batches: Iterator[list[dict]]) -> Iterator[list[dict]]:
        while True:
            started = self._now()
            batch = next(batches, None)
            self._waited += self._now() - started
            if batch is None:
                return
            yield batch

    def seconds(self) -> dict[str, float]:
        seconds = self._now() - self._started
        return {"seconds": round(seconds, 2), "input_wait_seconds": round(self._waited, 2)}


def count_by_status(rows: list[dict]) -> dict[str, dict[str, int]]:
    """Returns {'status': {status: number of images}}."""
    names, counts = np.unique([row["status"] for row in rows], return_counts=True)
    return {"status": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def _finish(
    settings: ScoringConfig,
    source: CapFiltInput,
    paths: list[epath.Path],
    records: list[dict],
    filters: int,
) -> None:
    """Writes the metadata of a TFDS dataset; every host does, with equal content."""
    folder = epath.Path(settings.output)
    lengths = [
        min(settings.shard_rows, len(source) - i * settings.shard_rows) for i in range(len(paths))
    ]
    shards = [{"file": x.name, **record} for x, record in zip(paths, records, strict=True)]
    manifest = {"rows": len(source), "shards": shards}
    write_json(folder / "manifest.json", manifest)
    description = f"Texts and scores of CapFilt for {source.dataset}, split {source.split}."
    storage.finish(settings.output, source.split, lengths, description, filters)
