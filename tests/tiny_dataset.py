"""A tiny Shapes dataset on disk and untrained models, for the tests of what uses models.

The web has one image that does not decode and one text that is empty.
"""

import dataclasses

import numpy as np
import optax
import tensorflow_datasets as tfds
import tiny
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from blip_jax.checkpoints.training import TrainingCheckpoints
from blip_jax.checkpoints.workdir import Metadata
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.synthetic.scenes import World
from blip_jax.data.tokenizer import Tokenizer, train_wordpiece
from blip_jax.models import Model
from blip_jax.runtime.config import to_json
from blip_jax.train.state import TrainState

ROWS, BROKEN, EMPTY = 30, 7, 11
LENGTH, PROMPT = 24, "a picture of "
SCENES = World(image_size=tiny.IMAGE)
HUMAN = ShapesConfig(
    kind="human", world=SCENES, train=12, val=0, test=10, captions_per_image=2, seed=1
)
WEB = ShapesConfig(kind="web", world=SCENES, train=ROWS, val=0, test=0, seed=1)
FEATURES = tfds.features.FeaturesDict({
    "key": tfds.features.Text(),
    "image": tfds.features.Image(encoding_format="png"),
    "texts": tfds.features.Sequence(tfds.features.Text()),
    "truth": tfds.features.Text(),
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TinyDataset:
    """Directories of two datasets, and a tokenizer of their texts."""

    folder: str
    human: str
    web: str
    tokenizer: Tokenizer


def build(folder) -> TinyDataset:
    """Builds the dataset in `folder`."""
    folder = str(folder)
    human = prepare(folder, HUMAN)
    records = [make_record(row, "train", WEB) for row in range(ROWS)]
    records[BROKEN]["image"] = b"no image"
    records[EMPTY]["texts"] = ["..."]
    texts = [text for record in records for text in record["texts"]]
    texts += [t for row in range(12) for t in make_record(row, "train", HUMAN)["texts"]]
    tokenizer = train_wordpiece([PROMPT, *texts], f"{folder}/tokenizer", 200)
    return TinyDataset(folder, human, write(f"{folder}/web", records), tokenizer)


def write(directory: str, records: list[dict], features=FEATURES) -> str:
    """Writes records as the only shard of split train; returns the directory."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name="web", split="train", filetype_suffix="array_record"
    )
    epath.Path(directory).mkdir(parents=True)
    path = f"{directory}/web-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(path, "group_size:1")
    for record in records:
        # Images go in as bytes that are encoded already; nothing looks whether they are one.
        example = features.encode_example(record)
        writer.write(features.serialize_example(example))
    writer.close()
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=[len(records)], num_bytes=1, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory, features=features, split_infos=[split], check_data=False
    )
    return directory


def trained(
    world: TinyDataset, seed: int = 0, prompt: str = "", model_type: str = "pretrain", **changes
) -> Model:
    """A model with random weights; `changes` are of its configuration."""
    med = {"vocab_size": world.tokenizer.ids.vocab_size, "max_length": LENGTH}
    med |= {"sharing": "none"} if model_type == "vqa" else {}
    config = tiny.config(med=med, **changes)
    described = {"model_type": model_type, "prompt": prompt, "max_length": LENGTH}
    return Model(tiny.init(config, seed, model_type), config, world.tokenizer, **described)


def save(model: Model, workdir: str) -> str:
    """Writes the workdir that a training of `model` would have left; returns it."""
    state = TrainState(np.int32(1), model.params, {}, optax.identity().init({}))
    config = to_json(model.config)
    metadata = Metadata(model.model_type, config, model.prompt, model.max_length)
    with TrainingCheckpoints(workdir) as checkpoints:
        checkpoints.save(state, metadata)
    model.tokenizer.save(f"{workdir}/tokenizer")
    return workdir
