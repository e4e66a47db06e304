"""TFDS builder of the Shapes dataset: `human` in place of COCO, `web` of CC12M and LAION.

It writes ArrayRecord files, and needs neither TensorFlow nor network. Records are stored in the
order of their index, so row i is record i, and each depends only on its own seed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from blip_jax.data.synthetic.noise import make_noise
from blip_jax.data.synthetic.scenes import World, describe, render, sample_scene
from blip_jax.runtime.errors import UserError

KINDS = ("human", "web")
SPLITS = ("train", "val", "test")
DEFAULT_COUNTS = {"human": (600, 500, 1000), "web": (10_000, 500, 1000)}
NOISE_MIX = {"mismatch": 0.5, "boilerplate": 0.15, "filename": 0.05, "one_attribute_wrong": 0.3}


@dataclasses.dataclass(eq=False)
class ShapesConfig(tfds.core.BuilderConfig):
    """What to build.

    Attributes:
      kind: "human": true, full captions. "web": one alt-text an image, a share of them noise.
      world: settings of the scenes.
      train, val, test: images a split; None takes the kind's default (DEFAULT_COUNTS), 0 leaves
        the split out. Those of `web`, val and test, are for measuring a filter.
      captions_per_image: texts an image of `human`; a web image has one.
      noise_share: share of web texts that are noise, kinds as in NOISE_MIX.
      short_share: share of the web texts of a scene (true, or mismatched, or with one attribute
        wrong) that are short.
      seed: the same seed gives the same records; other seeds share none.
      name: leave it out; it is the kind and a digest of the settings, so that each build has a
        folder of its own.

    Raises:
      UserError: a setting is out of range.
    """

    name: str = ""
    kind: str = "human"
    world: World = dataclasses.field(default_factory=World)
    train: int | None = None
    val: int | None = None
    test: int | None = None
    captions_per_image: int = 5
    noise_share: float = 0.5
    short_share: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        for split, count in zip(SPLITS, DEFAULT_COUNTS[self.kind], strict=True):
            if getattr(self, split) is None:
                setattr(self, split, count)
            if getattr(self, split) < 0:
                raise UserError(f"{split} is {getattr(self, split)}; it must be 0 or more")
        for share in ("noise_share", "short_share"):
            if not 0 <= getattr(self, share) <= 1:
                raise UserError(f"{share} is {getattr(self, share)}; it must be from 0 to 1")
        if self.captions_per_image < 1 or self.seed < 0:
            raise UserError("captions_per_image must be 1 or more, seed 0 or more")
        if not any(self.counts().values()):
            raise UserError("train, val and test are all 0; at least one must hold images")
        text = json.dumps(self.settings(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.name = self.name or f"{self.kind}-{digest}"

    def settings(self) -> dict:
        """Returns all that determines the records, as plain JSON values."""
        names = ("kind", *SPLITS, "captions_per_image", "noise_share", "short_share", "seed")
        values = {name: getattr(self, name) for name in names}
        return {**values, "world": dataclasses.asdict(self.world)}

    def counts(self) -> dict[str, int]:
        """Returns the number of images of each split that has any."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split)}


def make_record(index: int, split: str, config: ShapesConfig) -> dict:
    """Returns record `index` of a split: {'key', 'image' PNG bytes, 'texts', 'truth' JSON}.

    The generator is seeded by (seed, kind, split, index): no two datasets or splits share a scene.
    """
    seeds = [config.seed, KINDS.index(config.kind), SPLITS.index(split), index]
    rng = np.random.default_rng(seeds)
    scene = sample_scene(rng, config.world)
    picture = Image.fromarray(render(scene, config.world, rng))
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    noise, short = "", False
    if config.kind == "human":
        texts = [describe(scene, rng) for _ in range(config.captions_per_image)]
    else:
        short = bool(rng.random() < config.short_share)
        if rng.random() < config.noise_share:
            noise = str(rng.choice(list(NOISE_MIX), p=list(NOISE_MIX.values())))
            texts = [make_noise(noise, scene, config.world, rng, short)]
            short = short and noise in ("mismatch", "one_attribute_wrong")
        else:
            texts = [describe(scene, rng, short)]
    truth = {"scene": scene.to_dict(), "noise": noise, "short": short}
    return {
        "key": f"{config.kind}-{split}-{index:07d}",
        "image": file.getvalue(),
        "texts": texts,
        "truth": json.dumps(truth),
    }


class Shapes(tfds.core.GeneratorBasedBuilder):
    """The Shapes dataset; see `ShapesConfig`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        ShapesConfig(name="human", kind="human"),
        ShapesConfig(name="web", kind="web"),
    ]
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
            description="Scenes of simple shapes with true or, for web, partly untrue texts.",
            features=tfds.features.FeaturesDict(
                {
                    "key": tfds.features.Text(),
                    "image": tfds.features.Image(encoding_format="png"),
                    "texts": tfds.features.Sequence(tfds.features.Text()),
                    "truth": tfds.features.Text(),
                }
            ),
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
        # Not fork: this process may hold threads of JAX.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(self._workers, context) as pool:
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
