"""An import in this process, and the images and texts it is made of, for the tests of imports."""

import json

import malformed_files as found
import pyarrow.parquet

from blip_jax.data import ingest
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.runtime.config import replace

TEXTS = [["a red ball"], ["a blue cube", "a cube"], ["a dog"]]


def run(tmp_path, source, name="out", **fields):
    """(manifest, rows, index) of an import in this process."""
    config = replace(ingest.IngestConfig(source=str(source), workers=1), **fields)
    folder = tmp_path / name
    ingest.run(config, str(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["records_read"] == manifest["rows"] + sum(manifest["skipped"].values())
    index = pyarrow.parquet.read_table(folder / "index.parquet").to_pylist()
    rows = []
    for record in open_dataset(str(folder), config.output_split):
        row = {k: to_text(v) if isinstance(v, bytes) and k != "image" else v
               for k, v in record.items()}  # fmt: skip
        rows.append(row | {"texts": [to_text(text) for text in record["texts"]]})
    assert len(rows) == len(index) == manifest["rows"]
    assert len({row["key"] for row in rows}) == len(rows)
    for row, entry in zip(rows, index):
        assert all(row[name] == entry[name] for name in ("key", "url", "source", "sha256"))
        json.loads(row["fields"])
    return manifest, rows, index


def pictures(tmp_path, count=3):
    """Image files 0.jpg … below a folder."""
    (tmp_path / "images").mkdir()
    for seed in range(count):
        (tmp_path / "images" / f"{seed}.jpg").write_bytes(found.jpeg(seed))
    return tmp_path / "images"


def check_rows(rows, texts=TEXTS):
    assert [row["texts"] for row in rows] == texts
    assert [row["image"] for row in rows] == [found.jpeg(seed) for seed in range(len(texts))]
