"""The dataset that an import writes: shards, index, list of skipped records, manifest.

Every step of `finish` can be repeated, so that a run that was killed within it can be resumed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import tabulate
import tensorflow_datasets as tfds
from etils import epath

from blip_jax.data.ingest import units, validation
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.duplicates import Duplicates
from blip_jax.data.ingest.plan import WorkUnit
from blip_jax.data.ingest.readers.image_files import file_name
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_path, atomic_write, write_json
from blip_jax.runtime.terminal import printable

NAME = "imported"
MANIFEST, SKIPPED, INDEX = "manifest.json", "skipped.jsonl", "index.parquet"
DUPLICATE_FIELDS = [
    pyarrow.field("duplicate_of", pyarrow.int64()),
    pyarrow.field("distance", pyarrow.int8()),
]
BATCH = 10_000  # rows of the index in memory


def finish(
    workdir: str,
    parts: str,
    work_units: Sequence[WorkUnit],
    asked: dict,
    config: IngestConfig,
    find_duplicates: Callable[[list[int]], Duplicates],
) -> dict:
    """Makes one dataset of the units' files and returns its manifest.

    Args:
      workdir: folder of the dataset.
      parts: folder of the units' files.
      work_units: all units, done.
      asked: settings and files, for the manifest.
      config: of the import.
      find_duplicates: called with the numbers of the units that have rows.

    Raises:
      UserError: no record has become a row, or some are of images and others of clips.
    """
    folder = epath.Path(workdir)
    counts = [units.read_counts(parts, unit.number) for unit in work_units]
    totals = {name: sum(count[name] for count in counts) for name in ("records_read", "rows")}
    reasons, warnings = Counter(), Counter()
    for count in counts:
        reasons.update(count["skipped"])
        warnings.update(count["warnings"])
    if not totals["rows"]:
        found = ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common())
        raise UserError(
            f"0 of {totals['records_read']:,} records can be used: {found}; the first: "
            f"{_first_skipped(parts, work_units)}{_hint(reasons)}"
        )
    contents = sorted({content for count in counts for content in count["contents"]})
    if len(contents) > 1:
        raise UserError(
            f"config.source has {' and '.join(contents)}; import them into a dataset each"
        )
    full = [unit.number for unit, count in zip(work_units, counts) if count["rows"]]
    found = find_duplicates(full)
    if warnings[validation.FOUND_BY_URL]:
        if shared := _shared_files(parts, full, found):
            warnings["images that another URL with the same last part has too"] = shared
    for place, number in enumerate(full):
        shard = folder / f"{NAME}-{config.output_split}.array_record-{place:05d}-of-{len(full):05d}"
        if not shard.exists():
            units.path_of(parts, number, units.ROWS).rename(shard)
    _write_index(folder, parts, full, found)
    _write_skipped(folder, parts, len(work_units))
    _write_metadata(folder, [counts[number] for number in full], contents[0], config)
    manifest = {
        **totals,
        "skipped": dict(sorted(reasons.items())),
        "warnings": dict(sorted(warnings.items())),
        "duplicates": {
            "exact": int((found.distance == 0).sum()),
            "near": int((found.distance > 0).sum()),
        },
        **asked,
        "units": [dataclasses.asdict(unit) | count for unit, count in zip(work_units, counts)],
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _first_skipped(parts: str, work_units: list[WorkUnit]) -> str:
    """Returns the name of the first record that was skipped, and why."""
    for unit in work_units:
        with units.path_of(parts, unit.number, units.SKIPPED).open() as file:
            if line := file.readline():
                entry = json.loads(line)
                detail = f" ({entry['detail']})" if entry["detail"] else ""
                return printable(f"{entry['name']}, {entry['reason']}{detail}")
    return "unknown"


def _hint(reasons: Counter) -> str:
    """Returns what the user can do about the most frequent skip reason; "" if nothing."""
    reason = reasons.most_common(1)[0][0] if reasons else ""
    hints = {
        "empty text": "--config.allow_no_text=True takes images without text",
        "text not UTF-8": "save the texts as UTF-8 (iconv does that)",
        "missing image": "--config.images=FOLDER is where image paths start; URLs are not "
        "downloaded (img2dataset does that)",
        "missing video": "--config.images=FOLDER is where the paths of clips start",
    }
    return f"; {hints[reason]}" if reason in hints else ""


def _shared_files(parts: str, full: list[int], found: Duplicates) -> int:
    """Returns how many rows have the bytes of a row whose other URL ends in the same name.

    Pictures that were downloaded under such names may have replaced one another.
    """
    is_equal = found.distance == 0
    rows, originals = found.row[is_equal], found.original[is_equal]
    needed = np.union1d(rows, originals)
    urls: list[str] = []
    start = 0
    for batch in _batches(parts, full, ["url"]):
        own = needed[slice(*np.searchsorted(needed, [start, start + batch.num_rows]))]
        urls += batch.column("url").take(pyarrow.array(own - start)).to_pylist()
        start += batch.num_rows
    own_urls = [urls[place] for place in np.searchsorted(needed, rows)]
    other_urls = [urls[place] for place in np.searchsorted(needed, originals)]
    return sum(
        one != other and bool(one and other) and file_name(one) == file_name(other)
        for one, other in zip(own_urls, other_urls, strict=True)
    )


def _write_index(folder: epath.Path, parts: str, full: list[int], found: Duplicates) -> None:
    """Joins the units' indices, with duplicates marked."""
    schema = pyarrow.schema([*units.COLUMNS, *DUPLICATE_FIELDS])
    row = 0
    with (
        atomic_path(folder / INDEX) as temporary,
        pyarrow.parquet.ParquetWriter(str(temporary), schema) as writer,
    ):
        for batch in _batches(parts, full):
            table = pyarrow.Table.from_batches([batch])
            columns = found.columns(row, row + batch.num_rows)
            for field, values in zip(DUPLICATE_FIELDS, columns, strict=True):
                table = table.append_column(field, pyarrow.array(values))
            writer.write_table(table)
            row += batch.num_rows


def hashes(parts: str, full: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the first 8 bytes of the SHA-256 and the perceptual hashes of rows, uint64 [any].

    Args:
      parts: folder of the units' files.
      full: numbers of the units that have rows.
    """
    for batch in _batches(parts, full, ["sha256", "phash"]):
        digests = pyarrow.compute.utf8_slice_codeunits(batch["sha256"], 0, 16)
        yield _numbers(digests), _numbers(batch["phash"])


def _batches(
    parts: str, full: list[int], columns: list[str] | None = None
) -> Iterator[pyarrow.RecordBatch]:
    for number in full:
        with pyarrow.parquet.ParquetFile(units.path_of(parts, number, units.INDEX)) as table:
            yield from table.iter_batches(BATCH, columns=columns, use_threads=False)


def _numbers(column: pyarrow.Array) -> np.ndarray:
    """Returns texts of 16 hex digits as uint64."""
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), ">u8").astype(np.uint64)


def _write_skipped(folder: epath.Path, parts: str, count: int) -> None:
    with atomic_write(folder / SKIPPED, "wb") as out:
        for number in range(count):
            with units.path_of(parts, number, units.SKIPPED).open("rb") as part:
                shutil.copyfileobj(part, out)


def _write_metadata(
    folder: epath.Path, counts: list[dict], content: str, config: IngestConfig
) -> None:
    """Writes the files that TFDS needs with the shards; `content` is of units.FEATURES_OF."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=NAME,
        split=config.output_split,
        filetype_suffix="array_record",
    )
    info = tfds.core.SplitInfo(
        name=config.output_split,
        shard_lengths=[count["rows"] for count in counts],
        num_bytes=sum(count["bytes"] for count in counts),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=units.FEATURES_OF[content],
        split_infos=[info],
        description="Images and texts as they were found; see manifest.json.",
        check_data=False,
    )


def table(manifest: dict) -> str:
    """Returns the counts of rows, skipped records and duplicates as text for a terminal."""
    rows = [("records read", manifest["records_read"]), ("rows written", manifest["rows"])]
    rows += manifest["skipped"].items()
    marked = manifest["duplicates"]
    lines = [
        tabulate.tabulate(
            [(name, f"{count:,}") for name, count in rows], colalign=("left", "right")
        ),
        f"among the rows: {marked['exact']:,} exact and {marked['near']:,} near duplicates, marked",
    ]
    lines += [f"{name}: {count:,}" for name, count in manifest["warnings"].items()]
    return "\n".join(lines)
