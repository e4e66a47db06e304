"""Captions and scores a dataset shard by shard, on any number of hosts; it can be resumed.

A shard is a range of rows of the input and the unit of work: it is written under a temporary name
and renamed when complete. Shards that exist are not computed again. The random key of an image's
captions is derived from the image's own key, so the texts do not depend on the number of hosts,
devices, batches or restarts; scores are equal to the last bit for hosts with equal numbers of
devices and equal `batch_size`.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from etils import epath

from blip_jax.capfilt import resume, storage
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.capfilt.generate import CaptionScorer
from blip_jax.capfilt.image_batches import InputWaitTimer, batches
from blip_jax.capfilt.inputs import CapFiltInput
from blip_jax.capfilt.plugins import Plugin
from blip_jax.capfilt.work_queue import ShardQueue
from blip_jax.models import Model
from blip_jax.runtime import beam
from blip_jax.runtime.files import write_json
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.runtime.progress import Progress
from blip_jax.runtime.signals import Interrupted, SignalHandler

NO_BEAM = beam.BeamConfig()
MANIFEST = "manifest.json"
LISTING_SECONDS = 20.0  # least time between listings of the shards that others have finished


# Name to (path, model), or to (its text, plug-in).
Models = Mapping[str, tuple[str, Model | Plugin]]
NO_MODELS: Models = MappingProxyType({})


def run(
    settings: ScoringConfig,
    captioners: Models,
    filters: Models,
    begin: Callable[[], None] = lambda: None,
    beam_config: beam.BeamConfig = NO_BEAM,
    load_models: Callable[[], Sequence[Models]] | None = None,
    extra_scores: Models = NO_MODELS,
) -> str:
    """Captions every image with each captioner and scores all texts with each filter.

    Args:
      captioners, filters: name to (path, model or plug-in). Without captioners only the existing
        texts are scored.
      begin: called when nothing stands against the run, before the first image.
      beam_config: where shards are processed: by a runner of Apache Beam, or here.
      load_models: returns captioners, filters and, if there are any, extra scores in a worker of
        Beam; it is pickled.
      extra_scores: plug-ins, as captioners.

    Returns: the folder of the scored dataset, `settings.output`, when all shards are written.

    Raises:
      UserError: bad input, a model that cannot do it, or the output folder holds another run. If it
        is raised before the first image, nothing is written.
      Interrupted: a signal came; finished shards are kept, and the same call resumes.
    """
    source = CapFiltInput(settings.dataset, settings.split, len(filters))
    resume.check_models(captioners, filters)
    paths = shard_paths(settings, source)
    models = captioners, filters, extra_scores
    described, same = _identify(settings, source, *models)
    scorer = ShardScorer(settings, same, *models)  # refuses what models cannot do
    resume.check_same_run(settings, source, described, same, ShardQueue(paths))
    begin()
    manifest = epath.Path(settings.output) / MANIFEST
    metadata = ShardQueue([manifest], settings.lease_seconds, f"{storage.WORK}/metadata")
    with (
        SignalHandler() as signals,
        ShardQueue(paths, settings.lease_seconds) as shards,
        _ImageProgress(shards, settings.shard_rows, len(source)) as progress,
    ):
        if len(shards.done()) == len(paths) and manifest.exists():
            # Nothing is written: other hosts may read the metadata.
            storage.check_shards(settings.output, source.split, _lengths(settings, source, paths))
            return settings.output
        manifest.unlink(missing_ok=True)  # an old one would say that the metadata is written
        if beam_config.runner:
            left = sorted(set(range(len(paths))) - shards.done())
            make_work = functools.partial(_beam_work, settings, load_models)
            folder = str(paths[0].parent / storage.WORK / "beam")
            stop = lambda: signals.requested  # noqa: E731
            for _ in beam.run_units(left, make_work, beam_config, folder, stop):
                progress.count_shards()
        else:
            for number in shards.claim_shards(lambda: signals.requested):
                progress.count_shards()
                record = scorer.score(number, lambda: not signals.requested, progress.update)
                if record is None:
                    break
                shards.finished(number, record)
        progress.count_shards(exact=True)
        done = len(shards.done())
        if done == len(paths):
            with metadata:
                for _ in metadata.claim_shards(lambda: signals.requested):  # by one of the hosts
                    counts = len(filters), len(extra_scores)
                    _finish(settings, source, paths, shards.records(), *counts)
        if signals.requested and not manifest.exists():
            raise Interrupted(
                f"stopped with {done} of {len(paths)} shards done; rerun the same command to "
                "resume",
                signals.number,
            )
    return settings.output


def _identify(
    settings: ScoringConfig,
    source: CapFiltInput,
    captioners: Models,
    filters: Models,
    extra_scores: Models = NO_MODELS,
) -> tuple[dict[str, list[dict]], dict]:
    """Returns what provenance.json says of the models, and the fingerprint of the run."""
    models = {"captioners": captioners, "filters": filters}
    models |= {"extra_scores": extra_scores} if extra_scores else {}
    described = {
        role: [resume.describe(role[:-1], name, *own) for name, own in x.items()]
        for role, x in models.items()
    }
    return described, resume.fingerprint(settings, source, described, models)


def shard_paths(settings: ScoringConfig, source: CapFiltInput) -> list[epath.Path]:
    """Returns the paths of all shards of the scored dataset."""
    count = len(range(0, len(source), settings.shard_rows))
    return [storage.shard_path(settings.output, source.split, i, count) for i in range(count)]


class ShardScorer:
    """Captions and scores one shard after the other, with models that are in memory."""

    def __init__(
        self,
        settings: ScoringConfig,
        fingerprint: Mapping,
        captioners: Models,
        filters: Models,
        extra_scores: Models = NO_MODELS,
    ):
        self._settings = settings
        self._source = CapFiltInput(settings.dataset, settings.split, len(filters))
        self._columns = len(filters), len(extra_scores)
        self._size = settings.batch_size * jax.local_device_count()
        models = [
            {name: model for name, (_, model) in x.items()}
            for x in (captioners, filters, extra_scores)
        ]
        self._upright = all(
            m.config.exif_orientation
            for x in models
            for m in x.values()
            if not isinstance(m, Plugin)
        )
        how = settings.decodings, self._size, settings.seed
        self._scorer = CaptionScorer(*models[:2], *how, models[2])
        self._fingerprint = fingerprint
        self.paths = shard_paths(settings, self._source)

    def score(
        self,
        number: int,
        should_continue: Callable[[], bool],
        count_images: Callable[[int], None] = lambda count: None,
    ) -> dict | None:
        """Writes a shard and returns its record; None, and nothing is written, if told to stop.

        Args:
          should_continue: asked after each batch.
          count_images: called with the number of images of each batch.
        """
        start = number * self._settings.shard_rows
        rows = range(len(self._source))[start : start + self._settings.shard_rows]
        rows_done, times = [], InputWaitTimer()
        side = self._settings.plugin_image_size if self._scorer.needs_pictures else None
        examples = batches(self._source, rows, self._size, self._scorer.sizes, self._upright, side)
        for batch in self._scorer.rows(times.track(examples)):
            rows_done += batch
            count_images(len(batch))
            if not should_continue():
                return None
        # Another host may have begun with other settings.
        output = epath.Path(self._settings.output)
        check_fingerprint(output, "capfilt", self._fingerprint, begun=True, free=resume.FREE)
        storage.write_shard(self.paths[number], rows_done, *self._columns)
        return {"rows": len(rows_done), **times.seconds(), **count_by_status(rows_done)}


def _beam_work(settings: ScoringConfig, load_models: Callable[[], Sequence[Models]]) -> beam.Work:
    """Returns what a worker of Beam does with the number of a shard."""
    models = load_models()
    source = CapFiltInput(settings.dataset, settings.split, len(models[1]))
    scorer = ShardScorer(settings, _identify(settings, source, *models)[1], *models)
    queue = ShardQueue(scorer.paths, settings.lease_seconds)

    def work(number: int, should_continue: Callable[[], bool]) -> None:
        if scorer.paths[number].exists():  # by a worker that was given up
            return
        record = scorer.score(number, should_continue)
        if record is None:
            raise beam.UnitStopped
        queue.finished(number, record)

    return work


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

    def count_shards(self, exact: bool = False) -> None:
        """Adds the shards that other hosts have finished, as of the last LISTING_SECONDS."""
        if exact or time.monotonic() - self._listed > LISTING_SECONDS:
            self.update(self._images_done() - self._shown)

    def _images_done(self) -> int:
        self._listed = time.monotonic()
        return min(len(self._shards.done()) * self._shard_rows, self._images)


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
    extra_scores: int,
) -> None:
    """Writes the metadata of a TFDS dataset, and the manifest last: it tells that all is there."""
    folder = epath.Path(settings.output)
    lengths = _lengths(settings, source, paths)
    shards = [{"file": x.name, **record} for x, record in zip(paths, records, strict=True)]
    description = f"Texts and scores of CapFilt for {source.dataset}, split {source.split}."
    storage.finish(settings.output, source.split, lengths, description, filters, extra_scores)
    write_json(folder / MANIFEST, {"rows": len(source), "shards": shards})


def _lengths(
    settings: ScoringConfig, source: CapFiltInput, paths: Sequence[epath.Path]
) -> list[int]:
    """Returns the rows of each shard."""
    rows = settings.shard_rows
    return [min(rows, len(source) - number * rows) for number in range(len(paths))]
