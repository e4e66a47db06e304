"""The verb `prepare`: images and texts on disk as a dataset."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Imports images and texts as a dataset: tars of webdataset or img2dataset, JSON lists, JSON lines,
CSV, Parquet, folders of images with sidecar files, TFDS datasets. Given the config of a bootstrap
run, as `--config shapes`, it builds the datasets of that run."""


def work(config: Any, workdir: str) -> None:
    from blip_jax.data import ingest

    ingest.run(config, workdir)


def run(argv: list[str]) -> int:
    from blip_jax.data.ingest.config import IngestConfig

    verb = config_verb.ConfigVerb("prepare", DESCRIPTION, (IngestConfig,), default="prepare")
    return config_verb.run(verb, argv, work)
