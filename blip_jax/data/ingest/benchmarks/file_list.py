"""The records of a benchmark as JSON lines, one for each image: written once, read by units."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from etils import epath

from blip_jax.data.ingest.benchmarks.base import COUNTED, Benchmark
from blip_jax.data.ingest.benchmarks.image_folders import ImageFolders
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.readers.json_lines import Place, chunk_places, lines
from blip_jax.data.ingest.records import RawRecord
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write


def write(
    benchmark: Benchmark, paths: list[str], file_list: epath.Path, settings: IngestConfig
) -> dict:
    """Writes the records of a split, and returns what was counted.

    Args:
      paths: of the owner's files.

    Returns:
      {"read": counts by COUNTED's names, "published": the same of the owner}.

    Raises:
      UserError: a file is missing, cut off, or not what its name says; or there are no images.
    """
    files = [OwnerFile(path, benchmark.url) for path in paths]
    root = settings.images or settings.benchmark_folder
    what = "clips" if benchmark.has_clips else "images"
    folders = ImageFolders(root, benchmark.image_folders, what)
    counts, keys = dict.fromkeys(COUNTED, 0), set()
    with atomic_write(file_list) as out:
        for record in benchmark.read(files, settings):
            if record.key in keys:
                raise files[0].wrong(f"has the {what[:-1]} {record.key} twice")
            keys.add(record.key)
            for name, count in COUNTED.items():
                counts[name] += count(record)
            value = {"name": record.key, "texts": record.texts, "fields": record.fields}
            if record.video:
                value["video_path"] = folders.locate(record.video, *record.elsewhere)
            else:
                value["image_path"] = folders.locate(record.image, *record.elsewhere)
            if record.second_image:
                value["second_image_path"] = folders.locate(record.second_image)
            out.write(json.dumps(value) + "\n")
    if not keys:
        raise UserError(
            f"{files[0].path} has no {what[:-1]} of {benchmark.name} {settings.split}; check "
            "--config.split"
        )
    published = dict(benchmark.splits[settings.split].published)
    return {"read": {name: n for name, n in counts.items() if n}, "published": published}


def difference(benchmark: str, split: str, counts: dict) -> str:
    """Returns a line about the counts that are not the published ones; "" if there are none."""
    read, published = counts["read"], counts["published"]
    other = [name for name, count in published.items() if read.get(name, 0) != count]
    if not other:
        return ""
    found = " and ".join(f"{read.get(name, 0):,} {name}" for name in other)
    expected = " and ".join(f"{published[name]:,}" for name in other)
    return (
        f"{benchmark} {split} has {found} where {expected} are published; that is right for a "
        "subset, else download its files again"
    )


def plan(path: str, settings: IngestConfig) -> Iterator[tuple[int, int, int, int]]:
    """Yields the units of a file list: byte, number of the first record, of records, line."""
    with epath.Path(path).open("rb") as file:
        yield from chunk_places(lines(file, Place(0, 1)), settings.records_per_unit)


def read(unit, settings: IngestConfig) -> Iterator[RawRecord]:
    """Yields the records of a unit."""
    with epath.Path(unit.file_list).open("rb") as file:
        file.seek(unit.start)
        for line in itertools.islice(file, unit.records):
            yield RawRecord(**json.loads(line))
