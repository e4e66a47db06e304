"""VisDial's metrics against ranks and ties worked by hand."""

import itertools

import numpy as np
import pytest

from blip_jax.metrics import visdial
from blip_jax.runtime.errors import UserError


def test_ranks_without_ties():
    scores = [[0.1, 0.9, 0.5, 0.2], [4, 3, 2, 1]]
    found = visdial.rank_values(scores, [2, 3])  # ranks 2 and 4
    np.testing.assert_allclose(found["mrr"], [1 / 2, 1 / 4])
    np.testing.assert_allclose(found["mean_rank"], [2, 4])
    assert found["r@1"].tolist() == [0, 0] and found["r@5"].tolist() == [1, 1]
    assert visdial.ranks(scores).tolist() == [[4, 1, 2, 3], [1, 2, 3, 4]]


def test_ties_are_the_expectation_by_hand():
    # One above; the right answer shares ranks 2, 3, 4 with two others.
    found = visdial.rank_values([[9, 5, 5, 5, 1, 0]], [2])
    assert found["mrr"][0] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert (found["mean_rank"][0], found["r@1"][0], found["r@5"][0]) == (3, 0, 1)
    # Ranks 4 to 7 of equals: two of the four are among the first 5.
    assert visdial.rank_values([[9, 8, 7, 5, 5, 5, 5]], [4])["r@5"][0] == pytest.approx(0.5)


def test_constant_scores_are_chance():
    found = visdial.visdial_metrics(np.zeros((3, 100)), [0, 50, 99])
    assert [found[f"r@{k}"] for k in (1, 5, 10)] == pytest.approx([1, 5, 10])
    assert found["mean_rank"] == pytest.approx(50.5)
    assert found["mrr"] == pytest.approx(100 * np.mean(1 / np.arange(1, 101)))


def test_ndcg_by_hand():
    # Two relevant candidates, so two places count; ranking: 1 (gain 0), 0 (gain 1).
    found = visdial.ndcg([[2, 3, 1]], [[1, 0, 0.5]])
    best = 1 + 0.5 / np.log2(3)
    assert found[0] == pytest.approx((1 / np.log2(3)) / best)
    assert visdial.ndcg([[3, 1, 2]], [[1, 0, 0.5]])[0] == pytest.approx(1)


def test_ndcg_with_ties_is_the_mean_over_all_orders():
    scores, gain = np.array([1.0, 2, 1, 1, 0]), np.array([1, 0, 0.4, 0, 0.2])
    values = []
    for order in itertools.permutations([0, 2, 3]):
        shifted = scores.copy()
        shifted[list(order)] += [0.3, 0.2, 0.1]
        values.append(visdial.ndcg([shifted], [gain])[0])
    assert visdial.ndcg([scores], [gain])[0] == pytest.approx(np.mean(values))
    assert np.ptp(values) > 0.1


def test_what_is_not_annotated_does_not_count():
    scores = [[3, 2, 1], [3, 2, 1], [3, 2, 1]]
    relevance = [[np.nan] * 3, [0, 1, 0], [0, 0, 0]]
    found = visdial.visdial_metrics(scores, [0, -1, 1], relevance)
    assert found["r@1"] == 50 and found["r@1"].n == 2
    assert found["mean_rank"] == 1.5 and found["mean_rank"].standard_error == pytest.approx(0.5)
    assert found["ndcg"] == 0 and found["ndcg"].n == 1
    assert visdial.visdial_metrics(scores, [-1, -1, -1]) == {}
    assert set(visdial.visdial_metrics(scores, [-1] * 3, relevance)) == {"ndcg"}


def test_the_submission():
    found = visdial.submission(["7", 7], [1, 2], [[0.1, 0.9, 0.1], [1, 2, 3]])
    assert found == [
        {"image_id": 7, "round_id": 1, "ranks": [2, 1, 3]},
        {"image_id": 7, "round_id": 2, "ranks": [3, 2, 1]},
    ]


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (visdial.ranks, ([1, 2],), "expected .questions, candidates."),
        (visdial.ranks, ([[1, np.nan]],), "1 NaN of 2"),
        (visdial.rank_values, ([[1, 2]], [2]), "has 2, but questions have 2 candidates"),
        (visdial.rank_values, ([[1, 2]], [0, 1]), "each of 1 questions"),
        (visdial.rank_values, ([[1, 2]], [0.5]), "type float64"),
        (visdial.ndcg, ([[1, 2]], [[1]]), r"relevance is \(1, 1\)"),
        (visdial.ndcg, ([[1, 2]], [[1, -1]]), "a negative value"),
        (visdial.ndcg, ([[1, 2]], [[1, np.nan]]), "NaN in part of a row"),
        (visdial.submission, ([1], [1, 2], [[1, 2]]), "1 image ids and 2 round ids"),
        (visdial.submission, ([1], [0], [[1, 2]]), "rounds count from 1"),
        (visdial.submission, ([1, 1], [1, 1], [[1], [1]]), "round 1 of image 1 occurs twice"),
        (visdial.submission, (["a.jpg"], [1], [[1]]), "'a.jpg', round 1: expected integers"),
    ],
)
def test_bad_input_is_named(function, arguments, named):
    with pytest.raises(UserError, match=named):
        function(*arguments)
