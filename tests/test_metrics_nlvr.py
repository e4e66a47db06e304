"""NLVR2's accuracy and consistency by hand."""

import math

import pytest

from blip_jax.metrics.nlvr import nlvr_metrics, sentence_group
from blip_jax.runtime.errors import UserError


def test_accuracy_and_consistency_by_hand():
    # Groups a: both right; b: one of two wrong; c: right.
    found = nlvr_metrics(
        [True, False, True, True, False], [True, False, True, False, False], list("aabbc")
    )
    assert found["accuracy"] == pytest.approx(80) and found["accuracy"].n == 5
    assert found["consistency"] == pytest.approx(200 / 3) and found["consistency"].n == 3
    assert found["accuracy"].standard_error == pytest.approx(20)  # sqrt(0.8 * 0.2 / 4)


def test_a_wrong_statement_before_a_right_one_counts():
    assert nlvr_metrics([False, True], [True, True], ["a", "a"])["consistency"] == 0


def test_unknown_labels_do_not_count():
    found = nlvr_metrics([True, True, False], [True, None, None], ["a", "a", "b"])
    assert (found["accuracy"], found["consistency"]) == (100, 100)
    assert (found["accuracy"].n, found["consistency"].n) == (1, 1)
    assert all(math.isnan(value) for value in nlvr_metrics([], [], []).values())


def test_a_sentence_is_consistent_over_its_pairs():
    # The pairs 0 to 3 of one set with one sentence; the other sentence of a pair is not in it.
    names = ["dev-850-0-0", "dev-850-3-0", "dev-850-0-1", "dev-851-0-0"]
    assert [sentence_group(name) for name in names] == [
        "dev-850-0", "dev-850-0", "dev-850-1", "dev-851-0",
    ]  # fmt: skip


def test_bad_input_is_named():
    with pytest.raises(UserError, match="1 predictions, 2 labels, 1 groups"):
        nlvr_metrics([True], [True, False], ["a"])
    with pytest.raises(UserError, match="'true' with label True: give True or False"):
        nlvr_metrics(["true"], [True], ["a"])
    with pytest.raises(UserError, match="'dev-850' is no identifier of NLVR2"):
        sentence_group("dev-850")
