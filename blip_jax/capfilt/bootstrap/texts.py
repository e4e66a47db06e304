"""The scored texts that an arm trains on."""

import numpy as np

from blip_jax.capfilt import mixture
from blip_jax.capfilt.bootstrap.arms import Arm
from blip_jax.capfilt.table import TextTable


def kept_texts(arm: Arm, table: TextTable, threshold: float, seed: int) -> np.ndarray:
    """Returns bool [M]: which of the scored texts an arm trains on.

    Args:
      threshold: least P(match) that the filter keeps.
      seed: of a random subset.
    """
    least = threshold if arm.filtered else None
    if arm.cross_fitted:
        return _cross_fitted(arm, table, least)
    kept = mixture.select_by_threshold(table, arm.origins, least)
    if arm.random_subset:
        count = mixture.select_by_threshold(table, arm.origins, threshold).sum()
        rng = np.random.default_rng(seed)
        random_subset = rng.permutation(np.flatnonzero(kept))[:count]
        kept = np.isin(np.arange(len(kept)), random_subset)
    return kept


def _cross_fitted(arm: Arm, table: TextTable, threshold: float | None) -> np.ndarray:
    """Returns bool [M]: what the models that were not trained on an image's pair write and keep."""
    is_second_half = table.row >= round(len(table.key) / 2)  # as TFDS divides "train[:50%]"
    kept = np.zeros(len(table.row), bool)
    for base, is_own in zip(arm.bases, (is_second_half, ~is_second_half), strict=True):
        captioner, filter_name = (arm.model_folder(role, base) for role in ("captioner", "filter"))
        is_written = table.where("origin", "web") | table.where("model", captioner)
        by_filter = mixture.select_by_threshold(table, arm.origins, threshold, filter_name)
        kept |= is_own & is_written & by_filter
    return kept
