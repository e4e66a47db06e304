"""Filter measurements against counts worked by hand."""

import math

import numpy as np
import pytest

from blip_jax.metrics import filtering
from blip_jax.runtime.errors import UserError

P = [0.9, 0.8, 0.6, 0.4, 0.2]
TRUE = [True, False, True, True, False]


def test_decision_scores_by_hand():
    found = filtering.decision_scores(np.array(P) >= 0.5, TRUE)
    assert (found["texts"], found["kept"]) == (5, 3)
    assert found["kept_share"] == pytest.approx(0.6)
    assert found["noise_before"] == filtering.noise_share(TRUE) == pytest.approx(0.4)
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(2 / 3)
    assert found["noise_after"] == pytest.approx(1 / 3)


def test_curve_keeps_what_equals_the_threshold():
    found = filtering.curve(P, TRUE, [0.0, 0.6, 0.95])
    assert found["thresholds"] == [0.0, 0.6, 0.95]
    np.testing.assert_allclose(found["precision"], [0.6, 2 / 3, math.nan])
    np.testing.assert_allclose(found["recall"], [1, 2 / 3, 0])
    np.testing.assert_allclose(found["kept_share"], [1, 0.6, 0])


def test_average_precision_by_hand():
    # Precision where a true text enters: 1/1, 2/3, 3/4.
    assert filtering.average_precision(P, TRUE) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_average_precision_of_ties_is_the_share_of_true_texts():
    assert filtering.average_precision([0.5] * 5, TRUE) == pytest.approx(0.6)
    assert filtering.average_precision([0.5] * 5, TRUE[::-1]) == pytest.approx(0.6)


def test_calibration_by_hand():
    found = filtering.calibration([0.1, 0.3, 0.9, 1.0], [False, True, True, True], bins=2)
    assert found["edges"] == [0, 0.5, 1]
    assert found["count"] == [2, 2]
    np.testing.assert_allclose(found["p_match"], [0.2, 0.95])
    np.testing.assert_allclose(found["true_share"], [0.5, 1.0])
    assert found["ece"] == pytest.approx((0.3 * 2 + 0.05 * 2) / 4)


def test_a_fit_says_how_often_texts_are_true():
    """Texts are true half as surely as a filter says (in log-odds), and never above 0.9."""
    rng = np.random.default_rng(0)
    p_match = 1 / (1 + np.exp(-rng.normal(size=20_000) * 4))
    chance = np.minimum(1 / (1 + ((1 - p_match) / p_match) ** 0.5), 0.9)
    true = rng.random(chance.size) < chance
    fit = filtering.fit_calibration(p_match[::2], true[::2])
    assert len(fit["p_match"]) == 20
    assert np.all(np.diff(fit["p_match"]) > 0) and np.all(np.diff(fit["true_share"]) >= 0)
    better = filtering.calibrated(p_match[1::2], fit)
    assert np.abs(better - chance[1::2]).mean() < 0.02
    assert filtering.calibration(better, true[1::2])["ece"] < 0.02
    assert filtering.calibration(p_match[1::2], true[1::2])["ece"] > 0.08
    assert math.isnan(filtering.calibrated([math.nan], fit)[0])


def test_a_fit_of_few_texts_is_their_share():
    fit = filtering.fit_calibration([*P, math.nan], [*TRUE, True])
    assert fit["true_share"] == [pytest.approx(0.6)]
    np.testing.assert_allclose(filtering.calibrated([0, 0.4, 1], fit), 0.6)


def test_texts_of_one_score_have_one_share():
    fit = filtering.fit_calibration([1.0] * 100, [True] * 30 + [False] * 70)
    assert fit["true_share"] == [pytest.approx(0.3)]
    with pytest.raises(UserError, match="needs scored texts of known truth"):
        filtering.fit_calibration([], [])


def test_histogram_counts_true_texts_and_noise_apart():
    found = filtering.histogram(P, TRUE, bins=2)
    assert found == {"edges": [0, 0.5, 1], "true": [1, 2], "noise": [1, 1]}


def test_missing_scores_are_never_kept():
    p_match, true = [math.nan, 0.7], [True, True]
    assert filtering.curve(p_match, true, [0.0])["recall"] == [0.5]
    assert filtering.average_precision([math.nan, 0.7], [False, True]) == 1
    assert sum(filtering.calibration(p_match, true)["count"]) == 1
    assert sum(filtering.histogram(p_match, true)["true"]) == 1


def test_nothing_gives_nan():
    scores = filtering.decision_scores([], [])
    assert scores.pop("texts") == scores.pop("kept") == 0
    assert all(math.isnan(value) for value in scores.values())
    assert math.isnan(filtering.average_precision([], []))
    assert math.isnan(filtering.average_precision([0.5], [False]))
    assert math.isnan(filtering.calibration([], [])["ece"])
    assert all(math.isnan(value) for value in filtering.curve([], [])["precision"])
    assert math.isnan(filtering.decision_scores([False], [True])["precision"])


def test_lengths_must_agree():
    with pytest.raises(UserError, match="true has 2 texts"):
        filtering.curve([0.5], [True, False])


@pytest.mark.parametrize("value", [-0.1, 1.5, math.inf])
def test_what_is_no_probability_is_refused(value):
    for measure in (
        filtering.curve, filtering.average_precision, filtering.calibration,
        filtering.fit_calibration,
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"p_match has {value:g}; expected probabilities"):
            measure([0.5, value, math.nan], [True, False, True])
