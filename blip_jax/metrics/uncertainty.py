"""Metrics with the number of examples they were computed of, and their standard error."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from blip_jax.runtime.errors import UserError

RESAMPLES = 1000
_MAX_DRAWS = 2**22  # counts drawn at a time, so that many examples need no large matrix


class Estimate(float):
    """The value of a metric, which knows how certain it is.

    It is a float, so that what reads metrics needs no other kind of number; arithmetic with it
    gives plain floats.

    Attributes:
      n: number of examples that the value is of; None: unknown.
      standard_error: in the unit of the value, for other examples drawn from the same population;
        None: unknown. 0 where all examples agree, which does not say that the value is certain.
      training_images: number of images among the examples that the model was trained on.
    """

    n: int | None
    standard_error: float | None
    training_images: int

    def __new__(
        cls,
        value: float,
        n: int | None = None,
        standard_error: float | None = None,
        training_images: int = 0,
    ) -> "Estimate":
        estimate = super().__new__(cls, value)
        estimate.n, estimate.standard_error = n, standard_error
        estimate.training_images = training_images
        return estimate


def marked(metrics: Mapping[str, float], training_images: int) -> dict[str, float]:
    """Returns metrics that know the number of images the model was trained on; 0: as they are."""
    if not training_images:
        return dict(metrics)
    return {
        name: Estimate(
            value,
            getattr(value, "n", None),
            getattr(value, "standard_error", None),
            training_images,
        )
        for name, value in metrics.items()
    }


def mean(values: Any, scale: float = 1.0) -> Estimate:
    """Returns the mean of per-example values; its standard error by the closed form.

    The standard error is the sample standard deviation (divided by n - 1) over the root of n, which
    a bootstrap of the mean approaches; None below two examples.

    Args:
      values: float or bool [N]; NaN: an example that asks nothing, and does not count.
      scale: multiplies the values, 100 for percent.

    Returns:
      The mean; nan if no example counts.

    Raises:
      UserError: not one axis.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise UserError(f"per-example values have shape {values.shape}; expected one axis")
    values = scale * values[~np.isnan(values)]
    if not len(values):
        return Estimate(np.nan, 0)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(values.mean(), len(values), error)


def of_sums(
    statistics: Any,
    metrics: Callable[[np.ndarray], dict[str, np.ndarray]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Returns metrics of sums over examples; their standard errors by the bootstrap.

    Recall over images with several texts each and corpus BLEU are of this form. Examples are drawn
    with replacement, as many as there are, `resamples` times; the standard error is the standard
    deviation of a metric over the draws, those left out that give no value (NaN). The same
    arguments give the same numbers.

    Args:
      statistics: float [N, S], what each example adds to the S sums.
      metrics: given sums [B, S], returns B values of each metric.
      seed: of the draws.

    Returns:
      Of each metric its value for the sums over all examples.

    Raises:
      UserError: `statistics` is no matrix.
    """
    statistics = np.asarray(statistics, np.float64)
    if statistics.ndim != 2:
        raise UserError(f"statistics have shape {statistics.shape}; expected [examples, sums]")
    count = len(statistics)
    rng = np.random.default_rng(seed)
    step = max(1, _MAX_DRAWS // max(count, 1))
    share = np.full(count, 1 / max(count, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # sums without a query: NaN
        values = metrics(statistics.sum(axis=0, keepdims=True))
        draws = [
            metrics(rng.multinomial(count, share, min(step, resamples - start)) @ statistics)
            for start in range(0, resamples if count > 1 else 0, step)
        ]
    errors = {}
    for name in values:
        found = np.concatenate([draw[name] for draw in draws]) if draws else np.zeros(0)
        found = found[~np.isnan(found)]
        errors[name] = float(found.std(ddof=1)) if len(found) > 1 else None
    return {name: Estimate(value[0], count, errors[name]) for name, value in values.items()}


def to_json(value: float) -> dict[str, float | int | None]:
    """Returns {"value", "n", "standard_error"} of a metric; of a plain float n and error are None.

    These are the values of metrics.json. Where the model was trained on images that it was
    evaluated on, "training_images" is their number.
    """
    found = {
        "value": float(value),
        "n": getattr(value, "n", None),
        "standard_error": getattr(value, "standard_error", None),
    }
    if count := getattr(value, "training_images", 0):
        found["training_images"] = count
    return found
