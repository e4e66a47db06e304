"""Ranking of given texts."""

import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.decoding import log_likelihood, top_candidates
from blip_jax.runtime.errors import UserError

FIRST = jnp.array([[0.0, 3.0, 2.0], [5.0, -1.0, 5.0]])
TOKENS = jnp.array([2, 0, 1, 2])


@pytest.mark.parametrize(
    ("k", "wanted"),
    [(1, [[2], [0]]), (3, [[2, 0, 3], [0, 1, 3]]), (4, [[2, 0, 3, 1], [0, 1, 3, 2]])],
)
def test_the_shortlist_is_by_first_token_and_then_by_index(k, wanted):
    assert top_candidates(FIRST, TOKENS, k).tolist() == wanted


@pytest.mark.parametrize("k", [0, 5])
def test_a_shortlist_of_none_or_of_more_than_there_are_is_refused(k):
    with pytest.raises(UserError, match=f"k is {k}; .* candidates, 4"):
        top_candidates(FIRST, TOKENS, k)


PROBABILITIES = np.float32([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.2, 0.2, 0.6]]] * 2)
IDS = jnp.array([[0, 1, 2], [0, 0, 0]])
MASK = jnp.array([[True, True, True], [True, True, False]])


def test_the_likelihood_is_of_all_tokens_but_the_first_and_pads():
    found = log_likelihood(jnp.log(PROBABILITIES), IDS, MASK)
    np.testing.assert_allclose(found, np.log([0.25 * 0.75, 0.5]), rtol=1e-6)


def test_smoothing_mixes_in_the_mean_over_the_vocabulary():
    found = log_likelihood(jnp.log(PROBABILITIES), IDS, MASK, smoothing=0.1)
    mean = np.log(PROBABILITIES[0]).mean(axis=-1)
    wanted = [0.9 * np.log(0.25 * 0.75) + 0.1 * (mean[0] + mean[1]), 0.9 * np.log(0.5)]
    wanted[1] += 0.1 * mean[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
