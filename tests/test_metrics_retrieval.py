"""Recall and re-ranking against matrices worked by hand."""

import numpy as np
import pytest

from blip_jax.metrics import retrieval
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.retrieval import evaluate_matches

# Two images, three texts: texts 0 and 1 are of image 0, text 2 is of image 1.
OWNER = [0, 0, 1]
SCORES = [[0.1, 0.9, 0.2], [0.8, 0.3, 0.7]]


def test_recall_by_hand():
    # Image 0 finds text 1 first; image 1 finds text 0 before its own text 2.
    # Text 0 prefers image 1 (wrong), text 1 image 0, text 2 image 1.
    found = retrieval.recall(SCORES, OWNER)
    assert found["tr@1"] == 50
    assert found["ir@1"] == pytest.approx(200 / 3)
    assert found["r@1"] == pytest.approx((50 + 200 / 3) / 2)
    assert found["tr@5"] == found["ir@10"] == 100


def test_recall_takes_each_direction_from_its_own_matrix():
    perfect = np.array([[1, 1, 0], [0, 0, 1]])
    found = retrieval.recall(SCORES, OWNER, perfect.T)
    assert (found["tr@1"], found["ir@1"]) == (50, 100)


def test_constant_scores_are_chance():
    found = retrieval.recall(np.zeros((20, 20)), np.arange(20))
    want = {1: 5, 5: 25, 10: 50}
    for k, percent in want.items():
        for way in ("tr", "ir", "r"):
            assert found[f"{way}@{k}"] == pytest.approx(percent)


def test_ties_with_several_texts_an_image_are_the_expectation():
    # 4 tied texts, 2 of them right: the first is right in 1/2 of all orders.
    found = retrieval.recall(np.ones((2, 4)), [0, 0, 1, 1])
    assert found["tr@1"] == pytest.approx(50)
    # A better rival takes the first place for sure.
    assert retrieval.recall([[0, 0, 1, 0], [0, 0, 1, 0]], [0, 0, 1, 1])["tr@1"] == 50


def test_an_image_without_texts_only_stands_in_the_gallery():
    found = retrieval.recall([[0.9, 0.1], [0.2, 0.8], [0.95, 0.0]], [0, 1])
    assert (found["tr@1"], found["ir@1"]) == (100, 50)


def test_recall_of_nothing_is_nan():
    assert all(np.isnan(v) for v in retrieval.recall(np.zeros((0, 0)), []).values())


@pytest.mark.parametrize(
    ("scores", "owner", "t2i", "says"),
    [
        ([[np.nan, 1]], [0, 0], None, "1 NaN of 2"),
        ([[0, 1]], [0], None, "2 texts"),
        ([[0, 1]], [0, 1], None, "rows 0 to 0"),
        ([[0, 1]], [0, 0], [[0, 1]], "transpose"),
        ([0, 1], [0, 0], None, "matrix"),
    ],
)
def test_recall_names_bad_input(scores, owner, t2i, says):
    with pytest.raises(UserError, match=says):
        retrieval.recall(scores, owner, t2i)


def test_rerank_by_hand():
    asked = []

    def score(image_index, text_index):
        asked.extend(zip(image_index.tolist(), text_index.tolist(), strict=True))
        return 10.0 * image_index + text_index

    i2t, t2i = retrieval.rerank(SCORES, 1, score)
    # Top text of image 0 is 1, of image 1 is 0; top image of texts 0, 1, 2 is 1, 0, 1.
    np.testing.assert_allclose(i2t, [[-100, 1.9, -100], [10.8, -100, -100]], rtol=1e-6)
    np.testing.assert_allclose(t2i, [[-100, 10.8], [1.9, -100], [-100, 12.7]], rtol=1e-6)
    assert asked == [(0, 1), (1, 0), (1, 2)]  # the pairs of both directions, each once


def test_rerank_of_everything_is_logit_plus_similarity():
    rng = np.random.default_rng(0)
    similarity, logits = rng.normal(size=(2, 5, 7)).astype(np.float32)
    i2t, t2i = retrieval.rerank(similarity, 256, lambda i, t: logits[i, t])
    np.testing.assert_array_equal(i2t, similarity + logits)
    np.testing.assert_array_equal(t2i, i2t.T)


def test_rerank_top_k_equals_full_sort():
    rng = np.random.default_rng(1)
    similarity = rng.normal(size=(9, 30)).astype(np.float32)
    i2t, t2i = retrieval.rerank(similarity, 4, lambda i, t: np.zeros(len(i)))
    for found, scores in ((i2t, similarity), (t2i, similarity.T)):
        want = np.argsort(-scores, axis=1)[:, :4]
        got = np.argsort(-found, axis=1)[:, :4]
        np.testing.assert_array_equal(got, want)
        assert (np.count_nonzero(found > -100, axis=1) == 4).all()


def test_rerank_refuses_bad_logits():
    with pytest.raises(UserError, match="one match logit for each pair"):
        retrieval.rerank(SCORES, 1, lambda i, t: np.zeros((len(i), 2)))
    with pytest.raises(UserError, match="k is 0"):
        retrieval.rerank(SCORES, 0, lambda i, t: np.zeros(len(i)))


def test_galleries_are_consecutive_and_the_rest_is_left_out():
    found = list(retrieval.galleries([0, 0, 1, 2, 3, 4], 5, 2))
    assert [images.tolist() for images, _ in found] == [[0, 1], [2, 3]]
    assert [texts.tolist() for _, texts in found] == [[0, 1, 2], [3, 4]]
    with pytest.raises(UserError, match="galleries of 6"):
        list(retrieval.galleries(np.arange(5), 5, 6))


def test_standard_errors_of_recall_are_over_images():
    """Half of 100 images are found by both of their texts, and find them."""

    def query(key, direction, hit):
        return {"key": key, "direction": direction, "gallery": 0,
                "itc": {f"hit@{k}": hit for k in (1, 5, 10)}}  # fmt: skip

    hits = [float(i % 2) for i in range(100)]
    queries = [query(f"a#{i}", "i2t", hit) for i, hit in enumerate(hits)]
    queries += [query(f"a#{i}#{n}", "t2i", hit) for i, hit in enumerate(hits) for n in (0, 1)]
    found = evaluate_matches(queries)
    for name in ("tr@1", "ir@1", "r@10"):
        value = found[f"itc/{name}"]
        assert value == 50 and value.n == 100
        assert value.standard_error == pytest.approx(5, rel=0.07)  # sqrt(0.5 * 0.5 / 100)


def test_ranks_of_the_first_right_candidate():
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [5.0, 4.0, 3.0], [0.0, 0.0, 0.0]])
    found = retrieval.ranks(scores, np.array([0, 1, 1, 7]), np.array([0, 1, 1]))
    # The second: of three tied candidates two are right, so the first is at 1 or, one time of
    # three, at 2.
    np.testing.assert_allclose(found, [1, 4 / 3, 2, np.nan])
