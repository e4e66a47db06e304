"""Import what is on disk as a dataset: tars of webdataset or img2dataset, JSON lists, JSON lines,
CSV, Parquet, folders of images with sidecar files, TFDS datasets.

    blip-jax prepare --workdir data/cc12m --config.source='cc12m/*.tar'

A list whose images are in another folder, its fields named, and two sources in one dataset:

    … --config.source=coco_train.json --config.images=/data/coco
    … --config.source=pairs.csv --config.columns.image=photo --config.columns.text=title
    … --config.source='cc=cc12m/*.tar,sbu=sbu/*.csv' --config.columns.image=sbu=photo

Rejected records are counted by their reason (manifest.json, skipped.jsonl); duplicates are
marked (index.parquet). After an interruption, rerun the same command to resume.
"""

from blip_jax.data.ingest import IngestConfig


def get_config():
    return IngestConfig()
