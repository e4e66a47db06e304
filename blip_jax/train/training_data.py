"""What the checkpoints of a run say of the images that it is trained on."""

from collections.abc import Sequence

import numpy as np

from blip_jax.checkpoints import training_data
from blip_jax.checkpoints.sources import read_training_data
from blip_jax.checkpoints.training_data import TrainingDataset
from blip_jax.data.datasets import open_dataset
from blip_jax.data.image_digests import MAX_DIGESTS, image_digests
from blip_jax.data.mixture import Component, load_selected
from blip_jax.runtime.fingerprint import folder_digest
from blip_jax.tasks.contamination import ALLOW, check_contamination
from blip_jax.train.config import EvalConfig


def record_training_data(
    workdir: str, mixture: Sequence[Component], init_run: str, begun: bool
) -> tuple[TrainingDataset, ...]:
    """Returns what a run is trained on, and writes it into trained_on.json of its workdir.

    Args:
      mixture: of the run. Components with weight 0 do not count.
      init_run: the model that it starts from; what this one was trained on is included.
      begun: the run is resumed: what is written already is returned, if it is there.

    Raises:
      UserError: a dataset or the model cannot be read.
    """
    if begun and (stored := training_data.read(workdir)) is not None:
        return stored
    inherited = read_training_data(init_run) if init_run else ()
    own = [training_dataset(component) for component in mixture if component.weight]
    found = training_data.merge(own, inherited)
    training_data.write(workdir, found)
    return found


def training_dataset(component: Component) -> TrainingDataset:
    """Returns what a checkpoint says of a component of a mixture.

    The digests are those of the images of all records that are trained on, of at most
    `image_digests.MAX_DIGESTS` records; of more, of this number of evenly spaced ones.

    Raises:
      UserError: the dataset cannot be read.
    """
    length = len(open_dataset(component.dataset, component.split))
    rows = np.arange(length)
    if component.selected is not None:
        rows = np.unique(load_selected(component, length)[:, 0])
    step = -(-len(rows) // MAX_DIGESTS)
    return TrainingDataset(
        component.dataset,
        component.split,
        folder_digest(component.dataset),
        len(rows),
        image_digests(component.dataset, component.split, rows[:: max(step, 1)]),
        complete=step <= 1,
    )


def count_training_images(config: EvalConfig, trained_on: Sequence[TrainingDataset]) -> int:
    """Returns how many of the images that a run evaluates on it is trained on.

    Raises:
      UserError: there are some, and `config` does not allow it.
    """
    return check_contamination(
        trained_on,
        config.dataset,
        config.split,
        config.limit,
        model="this run",
        allow=config.allow_training_images,
        field=f"--config.eval.{ALLOW}",
    ).images
