"""Imports what people have on disk into a dataset that the rest of the package reads.

Tars of webdataset and img2dataset, JSON lists (the original's), JSON lines, CSV, Parquet, folders
of images with side-cars, and TFDS datasets. An input is cut into *units* (plan.py). A unit is read
record by record (a reader a format), each record is checked (checks.py), and what passes becomes
a row of the unit's shard (units.py); all else is counted by its reason. Behind the last unit the
shards get their names, and duplicates their marks (output.py, duplicates.py).
"""

from blip_jax.data.ingest.config import ColumnsConfig, IngestConfig
from blip_jax.data.ingest.run import run

__all__ = ["ColumnsConfig", "IngestConfig", "run"]
