"""Imports images and texts on disk as a dataset that the rest of the package reads.

Inputs: tars of webdataset and img2dataset, JSON lists (the original's), JSON lines, CSV, Parquet,
folders of images with sidecar files, TFDS datasets, and published benchmarks (benchmarks/, a module
for each). An input is divided into *work units*
(plan.py). The records of a unit are read (readers/, a module for each format) and checked
(validation.py); what passes becomes a row of the unit's shard (units.py), the rest is counted by
reason. At the end the shards get their names and duplicates are marked (output.py, duplicates.py).
"""

from blip_jax.data.ingest.config import ColumnsConfig, IngestConfig
from blip_jax.data.ingest.run import run

__all__ = ["ColumnsConfig", "IngestConfig", "run"]
