"""NLVR2: accuracy, and consistency over the image pairs that a sentence was written for.

The values are those of the official evaluation (lil-lab/nlvr, nlvr2/eval/metrics.py).
"""

from collections.abc import Sequence

import numpy as np

from blip_jax.metrics import uncertainty
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.runtime.errors import UserError


def nlvr_metrics(
    predictions: Sequence[bool], labels: Sequence[bool | None], groups: Sequence[str]
) -> dict[str, Estimate]:
    """Returns accuracy and consistency in percent.

    Args:
      predictions: of each statement and its pair of images, whether it is true.
      labels: the truth of each; None: unknown, the statement does not count.
      groups: name of the group of each. Consistency is the share of groups in which all predictions
        are right; `sentence_group` gives NLVR2's.

    Returns:
      `accuracy`, over statements, and `consistency`, over groups.

    Raises:
      UserError: lists of different lengths, or a value that is neither true nor false.
    """
    if not len(predictions) == len(labels) == len(groups):
        raise UserError(
            f"{len(predictions)} predictions, {len(labels)} labels, {len(groups)} groups: give one "
            "of each for each statement"
        )
    right, consistent = [], {}
    for predicted, label, group in zip(predictions, labels, groups):
        if label is None:
            continue
        if not all(isinstance(value, bool | np.bool_) for value in (predicted, label)):
            raise UserError(
                f"prediction {predicted!r} with label {label!r}: give True or False for each"
            )
        right.append(bool(predicted == label))
        consistent[group] = consistent.get(group, True) and right[-1]
    return {
        "accuracy": uncertainty.mean(right, scale=100),
        "consistency": uncertainty.mean(list(consistent.values()), scale=100),
    }


def sentence_group(identifier: str) -> str:
    """Returns the group of an NLVR2 identifier: "dev-850-2-0" is of "dev-850-0".

    Identifiers are SPLIT-SET-PAIR-SENTENCE. A group is the pairs of one set with one sentence, so
    the number of the pair is left out.

    Raises:
      UserError: the identifier has not four parts.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise UserError(
            f"{identifier!r} is no identifier of NLVR2; expected SPLIT-SET-PAIR-SENTENCE"
        )
    return "-".join((*parts[:2], parts[3]))
