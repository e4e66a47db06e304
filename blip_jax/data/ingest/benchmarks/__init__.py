"""Readers for published benchmarks: the files of their owners, by config.benchmark."""

from __future__ import annotations

from etils import epath

from blip_jax.data.ingest.benchmarks import (
    coco,
    flickr30k,
    msrvtt,
    msrvtt_qa,
    msvd_qa,
    nlvr2,
    nocaps,
    owner_files,
    visdial,
    visual_genome,
    vqa_v2,
)
from blip_jax.data.ingest.benchmarks.base import Benchmark
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

_ALL = (
    coco.BENCHMARK,
    flickr30k.BENCHMARK,
    msrvtt.BENCHMARK,
    msrvtt_qa.BENCHMARK,
    msvd_qa.BENCHMARK,
    nlvr2.BENCHMARK,
    nocaps.BENCHMARK,
    visdial.BENCHMARK,
    visual_genome.CAPTIONS,
    visual_genome.VQA,
    vqa_v2.BENCHMARK,
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def files(settings: IngestConfig) -> tuple[list[str], list[str]]:
    """Returns the paths of a split's files, and notes on what is missing, a line each.

    Args:
      settings: of which `benchmark`, `source` and `split` count.

    Raises:
      UserError: the source is not a folder, a file is not in it, or there is no such split.
    """
    benchmark, root = BENCHMARKS[settings.benchmark], settings.benchmark_folder
    if settings.split not in benchmark.splits:
        raise UserError(
            f"{benchmark.name} has no split {settings.split!r}; "
            f"{hint(settings.split, benchmark.splits)}"
        )
    if not epath.Path(root).is_dir():
        raise UserError(
            f"config.source names {root}, which is not a folder; "
            f"give the folder of {benchmark.name}"
        )
    split = benchmark.splits[settings.split]
    wanted = {name: None for group in split.files for name in group}
    found = owner_files.find(root, (*wanted, *split.optional))
    group = next((group for group in split.files if all(name in found for name in group)), None)
    if group is None:
        raise _missing(benchmark, settings, set(found))
    chosen = [*group, *(name for name in split.optional if name in found)]
    notes = [
        f"no {name} in {root}, so {lacks}"
        for name, lacks in split.optional.items()
        if name not in found
    ]
    return [found[name] for name in chosen], notes


def _missing(benchmark: Benchmark, settings: IngestConfig, found: set[str]) -> UserError:
    """Returns the error that no group of files is complete; it names what the nearest one lacks."""
    groups = benchmark.splits[settings.split].files
    nearest = max(groups, key=lambda group: len(found.intersection(group)))
    if found.intersection(nearest):
        lacks = ", ".join(name for name in nearest if name not in found)
    else:
        lacks = " or ".join(" and ".join(group) for group in groups)
    return UserError(
        f"{settings.benchmark_folder} has no {lacks}, from which {benchmark.name} "
        f"{settings.split} is read; get it from {benchmark.url}, or check --config.source"
    )
