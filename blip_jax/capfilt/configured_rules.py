"""The rules of a selection by the fields of `assemble`, and its calibration."""

import dataclasses

import numpy as np
from etils import epath

from blip_jax.capfilt import filter_quality
from blip_jax.capfilt.config import AssembleConfig
from blip_jax.capfilt.selection import SelectionRules, probability
from blip_jax.capfilt.table import TextTable
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import read_json


def selection_rules(config: AssembleConfig) -> SelectionRules:
    """Returns the rules of a config.

    Raises:
      UserError: one is out of range.
    """
    selection = config.selection
    thresholds = dataclasses.asdict(selection.thresholds)
    shares = {name: share for name, share in dataclasses.asdict(selection.shares).items() if share}
    return SelectionRules(
        thresholds={
            name: None if name in shares else thresholds.get(name, 0.5) for name in config.origins
        },
        shares=shares,
        max_texts_per_image=selection.max_texts_per_image,
        min_cosine=None if selection.min_cosine <= -1 else selection.min_cosine,
        filter_reduction=selection.filter_reduction,
        duplicates=selection.duplicates,
        source_weights=selection.numbers("source_weights"),
        minimums=selection.numbers("minimums"),
        maximums=selection.numbers("maximums"),
        languages=selection.languages,
    )


def calibration(
    config: AssembleConfig, rules: SelectionRules, table: TextTable, known: np.ndarray
) -> dict[str, dict]:
    """Returns the fit of each origin: of the texts with a known label, or from a statistics.json.

    Raises:
      UserError: no truth is known of an origin, or the file holds no fit of it.
    """
    if config.selection.calibration == "fit":
        nothing = np.zeros(len(known), bool)
        fits = filter_quality.filter_quality_by_origin(
            table, probability(table, rules), nothing, known
        ).get("fit", {})
        lacking = "needs texts of known truth, and the images have no field truth"
    else:
        path = epath.Path(config.selection.calibration)
        try:
            found = read_json(path)
            fits = found["selection"]["calibration"] or found["truth"]["fit"]
            fits = dict(fits)
        except (UserError, KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, UserError) else f"{path} holds no fit"
            raise UserError(
                f"config.selection.calibration: {reason}; give "
                '"fit", or the statistics.json of a dataset with known truth'
            ) from error
        lacking = f"has no fit in {path}"
    for origin, threshold in rules.thresholds.items():
        if threshold is not None and origin not in fits:
            raise UserError(f"config.selection.calibration of {origin} texts {lacking}")
    return fits
