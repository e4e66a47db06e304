"""Import what is on disk as a dataset: tars of webdataset or img2dataset, JSON lists, JSON lines,
CSV, Parquet, folders of images with sidecar files, TFDS datasets.

    blip-jax prepare --workdir data/cc12m --config.source='cc12m/*.tar'

A list whose images are in another folder, its fields named, and two sources in one dataset:

    … --config.source=coco_train.json --config.images=/data/coco
    … --config.source=pairs.csv --config.columns.image=photo --config.columns.text=title
    … --config.source=clips.csv --config.columns.video=file --config.columns.text=title
    … --config.source='cc=cc12m/*.tar,sbu=sbu/*.csv' --config.columns.image=sbu=photo

A published benchmark, from the folder with its owner's files:

    blip-jax prepare --config prepare:vqa_v2 --workdir data/vqa_val \\
        --config.source=/data/vqa --config.split=val

Rejected records are counted by their reason (manifest.json, skipped.jsonl); duplicates are
marked (index.parquet). After an interruption, rerun the same command to resume.
"""

from blip_jax.data.ingest import IngestConfig
from blip_jax.data.ingest.benchmarks import BENCHMARKS
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint


def get_config(benchmark: str = "") -> IngestConfig:
    """`benchmark`: a published dataset, of BENCHMARKS, whose first split is the default."""
    if not benchmark:
        return IngestConfig()
    if benchmark not in BENCHMARKS:
        raise UserError(
            f"config prepare has no variant {benchmark!r}; {hint(benchmark, BENCHMARKS)}"
        )
    return IngestConfig(benchmark=benchmark, split=next(iter(BENCHMARKS[benchmark].splits)))
