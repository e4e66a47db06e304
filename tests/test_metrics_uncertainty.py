"""Standard errors: the closed form, the bootstrap against it, and what has none."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from blip_jax.metrics import uncertainty
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.runtime.errors import UserError


def ratio(sums):
    return {"ratio": sums[:, 0] / sums[:, 1]}


def of_ratio(pairs, **arguments):
    return uncertainty.of_sums(pairs, ratio, **arguments)["ratio"]


def test_a_mean_by_hand():
    found = uncertainty.mean([1, 2, 3, np.nan, 6], scale=10)
    assert found == 30 and found.n == 4
    # Deviations -20, -10, 0, 30: variance 1400 / 3 with n - 1.
    assert found.standard_error == pytest.approx(math.sqrt(1400 / 3 / 4))


def test_one_example_and_none_have_no_standard_error():
    one, none = uncertainty.mean([0.5]), uncertainty.mean([])
    assert (one, one.n, one.standard_error) == (0.5, 1, None)
    assert math.isnan(none) and none.n == 0 and none.standard_error is None
    assert math.isnan(of_ratio(np.zeros((0, 2))))
    assert of_ratio([[1, 2]]).standard_error is None


def test_the_bootstrap_agrees_with_the_closed_form(monkeypatch):
    values = np.random.default_rng(3).gamma(2, size=400)
    pairs = np.stack([values, np.ones(400)], axis=1)
    closed, drawn = uncertainty.mean(values), of_ratio(pairs)
    assert drawn == pytest.approx(closed) and drawn.n == 400
    # The standard deviation of 1000 draws is right within 3 x 1 / sqrt(2000).
    assert drawn.standard_error == pytest.approx(closed.standard_error, rel=0.07)
    again = of_ratio(pairs)
    assert again.standard_error == drawn.standard_error  # the same seed
    assert of_ratio(pairs, seed=1).standard_error != drawn.standard_error
    monkeypatch.setattr(uncertainty, "_MAX_DRAWS", 7 * 400)  # in pieces, the last not full
    pieces = of_ratio(pairs)
    assert pieces.standard_error == pytest.approx(drawn.standard_error, rel=1e-9)


def test_examples_of_several_queries_count_together():
    # Two queries an example with the same outcome: half as many independent ones.
    outcome = (np.arange(200) % 4 == 0).astype(float)
    single = of_ratio(np.stack([outcome, np.ones(200)], axis=1))
    double = of_ratio(np.stack([2 * outcome, 2 * np.ones(200)], axis=1))
    assert double == single == 0.25
    assert double.standard_error == pytest.approx(single.standard_error)


def test_draws_without_a_query_are_left_out():
    found = of_ratio([[1, 1], [0, 0], [0, 0]])
    assert found == 1 and found.standard_error == 0


def test_an_estimate_is_a_float():
    value = Estimate(2.5, 4, 0.5)
    assert value + 1 == 3.5 and json.dumps(value) == "2.5" and type(value * 2) is float
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert uncertainty.to_json(other) == {"value": 2.5, "n": 4, "standard_error": 0.5}
    assert uncertainty.to_json(1.5) == {"value": 1.5, "n": None, "standard_error": None}


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match=r"per-example values have shape \(1, 2\)"):
        uncertainty.mean([[1, 2]])
    with pytest.raises(UserError, match=r"statistics have shape \(2,\)"):
        of_ratio([1, 2])
