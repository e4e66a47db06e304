"""Import what is on disk as a dataset: tars of webdataset or img2dataset, JSON lists, JSON lines,
CSV, Parquet, folders of images with side-cars, TFDS datasets.

    blip-jax prepare --config configs/prepare.py --workdir data/cc12m --config.source='cc12m/*.tar'

A list whose images lie elsewhere, its fields named, and two sources in one dataset:

    … --config.source=coco_train.json --config.images=/data/coco
    … --config.source=pairs.csv --config.columns.image=photo --config.columns.text=title
    … --config.source='cc=cc12m/*.tar,sbu=sbu/*.parquet' --config.min_side=128 --config.resize=512

What cannot be used is counted by its reason (manifest.json, skipped.jsonl); duplicates are
marked (index.parquet). Stopped or killed, the same command goes on.
"""

from blip_jax.data import ingest


def get_config():
    return ingest.defaults()
