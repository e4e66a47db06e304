"""Imports from a bucket: the same datasets as from the files that were copied there.

`test_bucket.py` starts it with the bucket's address in the environment, where the libraries look
for it when they are first used.
"""

import json
import pathlib
import sys

import malformed_files as found
import pyarrow
import pyarrow.parquet
from etils import epath

from blip_jax.data import ingest


def run(source: str, folder: pathlib.Path) -> dict[str, bytes]:
    """The shards of an import, by name."""
    config = ingest.IngestConfig(source=source, workers=1, records_per_unit=2)
    ingest.run(config, str(folder))
    return {path.name: path.read_bytes() for path in folder.glob("imported-*")}


def main(folder: pathlib.Path) -> None:
    place = folder / "in"
    found.write_shards(place, 2, 6, broken=3)
    records = [{"image": f"{seed}.jpg", "caption": f"text {seed}"} for seed in range(5)]
    for seed in range(5):
        (place / f"{seed}.jpg").write_bytes(found.jpeg(seed))
        (place / f"{seed}.txt").write_text(f"text {seed}")
    (place / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    (place / "x.csv").write_text("image,caption\n0.jpg,a\n1.jpg,b\n4.jpg,c\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), place / "x.parquet")
    bucket = epath.Path("gs://bucket/in")
    for file in place.iterdir():
        (bucket / file.name).write_bytes(file.read_bytes())
    for number, name in enumerate(["*.tar", "x.jsonl", "x.csv", "x.parquet"]):
        local = run(f"{place}/{name}", folder / f"local-{number}")
        assert local and run(f"{bucket}/{name}", folder / f"bucket-{number}") == local, name
    print("equal")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
