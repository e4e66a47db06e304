"""Refuses evaluations on images that a model was trained on, or counts these images."""

from collections.abc import Iterable

import jax
import numpy as np

from blip_jax.checkpoints.training_data import Overlap, TrainingDataset, find_overlap
from blip_jax.data.datasets import open_dataset
from blip_jax.data.image_digests import image_digests
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import folder_digest
from blip_jax.runtime.terminal import print_note

ALLOW = "allow_training_images"  # config field that lets such evaluations run


def check_contamination(
    trained_on: Iterable[TrainingDataset] | None,
    dataset: str,
    split: str,
    limit: int = 0,
    *,
    model: str = "the model",
    allow: bool = False,
    field: str = f"--config.{ALLOW}",
) -> Overlap:
    """Returns which images of an evaluation the model was trained on.

    The same image is found in other datasets and splits too, by the bytes of its file; near
    duplicates are not.

    Args:
      trained_on: what the model was trained on; None: unknown, so that no image is found.
      dataset, split, limit: of the evaluation; see `EvalDataset.load`.
      model: for messages.
      allow: such an evaluation is reported on stderr, and not refused.
      field: of the command line, that sets `allow`.

    Raises:
      UserError: the model was trained on at least one of the images; the dataset cannot be read.
    """
    entries = tuple(trained_on or ())
    if not entries:
        return Overlap(0, 0, ())
    rows = None
    if limit:
        rows = np.arange(min(limit, len(open_dataset(dataset, split))))
    digests = image_digests(dataset, split, rows)
    found = find_overlap(entries, dataset, split, folder_digest(dataset), digests)
    if not found.images:
        return found
    where = "; ".join(found.places[:3]) + (" and others" if found.places[3:] else "")
    what = (
        f"{model} was trained on {found.images:,} of the {found.total:,} images of {dataset}, "
        f"split {split} (from {where})"
    )
    if not allow:
        raise UserError(
            f"{what}; evaluate on other images, or give {field}=True to get results that are "
            "marked with this number"
        )
    if jax.process_index() == 0:
        print_note(f"{what}; the results are marked with this number")
    return found
