"""The verb `prepare`."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Imports images and texts as a dataset: tars of webdataset or img2dataset, JSON lists, JSON lines,
CSV, Parquet, folders of images with sidecar files, TFDS datasets; as `--config prepare:NAME` the
published benchmark NAME. Given the config of a bootstrap run, as `--config shapes`, it makes the
datasets of that run alone; `--config shapes:vqa`, `:pairs` or `:dialog` makes a synthetic dataset
of a downstream task. After an interruption, rerun the same command to resume."""


def work(config: Any, workdir: str) -> None:
    from blip_jax.data import ingest

    if isinstance(config, ingest.IngestConfig):
        ingest.run(config, workdir)
        return
    from blip_jax.data.synthetic import dataset

    if isinstance(config, dataset.ShapesDatasetConfig):
        dataset.prepare_dataset(config, workdir)
        print(f"{config.kind}: {workdir}")
        return
    from blip_jax.capfilt.bootstrap.run import prepare_datasets

    for name, path in prepare_datasets(config, workdir).items():
        print(f"{name}: {path}")


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb(
        "prepare",
        DESCRIPTION,
        ("IngestConfig", "BootstrapConfig", "ShapesDatasetConfig"),
        default="prepare",
    )
    return config_verb.run(verb, argv, work)
