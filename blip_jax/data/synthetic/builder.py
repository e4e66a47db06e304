"""TFDS builder of the Shapes dataset, in place of the datasets of the paper.

It writes ArrayRecord files, and needs neither TensorFlow nor network. Records are stored in the
order of their index, so row i is record i, and each depends only on its own seed.
"""

from __future__ import annotations

import contextlib
import functools
import io

import tensorflow_datasets as tfds
from etils import epath

from blip_jax.data.synthetic.config import KINDS, ShapesConfig
from blip_jax.data.synthetic.records import make_record
from blip_jax.runtime.worker_pool import worker_pool

_F = tfds.features


def features_of(kind: str) -> tfds.features.FeaturesDict:
    """Returns the features of the records of a kind."""
    features = {
        "key": _F.Text(),
        "image": _F.Image(encoding_format="png"),
        "texts": _F.Sequence(_F.Text()),
        "truth": _F.Text(),
    }
    if kind not in ("human", "web"):
        features["fields"] = _F.Text()
    if kind == "pairs":
        features["second_image"] = _F.Image(encoding_format="png")
    if kind == "clips":
        del features["image"]
        features["video"] = _F.Text()  # the bytes of the file; _F.Video would store frames
    return _F.FeaturesDict(features)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """The Shapes dataset; see `ShapesConfig`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [ShapesConfig(name=kind, kind=kind) for kind in KINDS]
    # Given here because TFDS would look it up through `importlib_resources`, which it does not
    # declare as a requirement on current Pythons.
    code_path = epath.Path(__file__)

    def __init__(self, *, workers: int = 1, **kwargs):
        """Takes TFDS's arguments, and the number of processes that draw (1: only this one)."""
        self._workers = workers
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of simple shapes with texts whose truth is known.",
            features=features_of(self.builder_config.kind),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(settings=self.builder_config.settings()),
        )

    def _split_generators(self, dl_manager):
        counts = self.builder_config.counts()
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split: str, count: int):
        make = functools.partial(make_record, split=split, config=self.builder_config)
        if self._workers == 1 or count < 20_000:
            yield from enumerate(map(make, range(count)))
            return
        with worker_pool(self._workers) as pool:
            yield from enumerate(pool.map(make, range(count), chunksize=256))


def _is_whole(builder: tfds.core.DatasetBuilder) -> bool:
    """Returns whether all files of all splits exist, and the splits are those of the config."""
    if not builder.is_prepared() or set(builder.info.splits) != set(
        builder.builder_config.counts()
    ):
        return False
    return all(
        epath.Path(path).exists()
        for split in builder.info.splits.values()
        for path in split.filepaths
    )


def prepare(data_dir: str, config: ShapesConfig, workers: int = 1) -> str:
    """Builds the dataset unless it exists already, and returns its directory.

    Args:
      data_dir: folder of datasets; this one is built in shapes/NAME/VERSION below it.
      config: what to build.
      workers: processes that draw the scenes. With more than 1 the calling program must be
        importable (`if __name__ == "__main__"`), as for any spawned process.

    Returns:
      The directory that holds features.json. An incomplete build is removed and repeated.
    """
    home = epath.Path(data_dir).expanduser() / Shapes.name / config.name
    make = functools.partial(
        Shapes, data_dir=data_dir, config=config, file_format="array_record", workers=workers
    )
    builder = make()
    if _is_whole(builder):
        return str(builder.data_dir)
    for leftover in home.glob("*") if home.exists() else ():
        leftover.rmtree()
    builder = make()
    with contextlib.redirect_stdout(io.StringIO()):  # it claims to download
        builder.download_and_prepare()
    return str(builder.data_dir)
