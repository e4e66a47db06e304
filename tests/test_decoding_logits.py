"""What a token is chosen from, and the options that say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.decoding import Decoding
from blip_jax.decoding.logits import process_logits, seen_tokens, select_token
from blip_jax.decoding.logits import top_k as top_k_of_rows
from blip_jax.decoding.logits import top_p as top_p_of_rows
from blip_jax.runtime.errors import UserError

EOS, INF = 3, np.inf


def processed(logits, seen=(), length=9, **options):
    mask = np.isin(np.arange(len(logits)), list(seen))[None]
    values = {"top_p": 1.0, "repetition_penalty": 1.0, "min_length": 0, **options}
    row = np.array([logits], np.float32)
    decoding = Decoding(**values)
    params = decoding.params(1)
    return process_logits(row, mask, jnp.int32(length), EOS, decoding.method, params)[0].tolist()


def top_k(logits, k):
    return top_k_of_rows(jnp.asarray(logits), jnp.full(len(logits), k))


def top_p(logits, p):
    return top_p_of_rows(jnp.asarray(logits), jnp.full(len(logits), p, jnp.float32))


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    found = processed([2.0, -2.0, 0.0, 4.0, -4.0], seen=[0, 1, 2], repetition_penalty=2.0)
    assert found == [1.0, -4.0, 0.0, 4.0, -4.0]


@pytest.mark.parametrize(("length", "end"), [(5, -INF), (6, 4.0), (7, 4.0)])
@pytest.mark.parametrize("method", ["sample", "greedy"])
def test_the_end_waits_for_the_least_length(length, end, method):
    found = processed([1.0, 2.0, 3.0, 4.0], length=length, min_length=6, method=method)
    assert found == [1.0, 2.0, 3.0, end]


def test_temperature_divides_after_the_penalty_and_not_for_greedy():
    options = {"seen": [0], "repetition_penalty": 2.0, "temperature": 0.5}
    assert processed([2.0, 1.0], **options) == [2.0, 2.0]
    assert processed([2.0, 1.0], method="greedy", **options) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.2, [1]),
        (0.499, [1]),
        (0.501, [1, 3]),
        (0.749, [1, 3]),
        (0.751, [0, 1, 3]),
        (0.899, [0, 1, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_the_nucleus_ends_with_the_token_that_passes_p(p, kept):
    logits = np.log(np.float32([[0.15, 0.5, 0.1, 0.25]]))
    found = np.asarray(top_p(logits, p))
    assert np.flatnonzero(found[0] > -INF).tolist() == kept
    assert (found[0, kept] == logits[0, kept]).all()


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_what_sorting_finds(p):
    """Of BERT's vocabulary, with logits of both signs, large ones, and some ruled out."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(6, 30524)) * [[0.1], [1], [3], [10], [30], [3]]).astype(np.float32)
    logits[:, ::7] = -INF
    logits[5] = np.round(logits[5])  # many ties
    for row, found in zip(logits, np.asarray(top_p(logits, p)), strict=True):
        descending = np.sort(row)[::-1].astype(np.float64)
        probability = np.exp(descending - descending[0])
        probability /= probability.sum()
        likelier = np.cumsum(probability) - probability
        least = descending[likelier <= p][-1]
        # Where two sums of float32 cannot be told apart, one token more or less is right.
        near = np.abs(likelier - p) < 1e-5
        wanted = row >= least
        differs = (found > -INF) != wanted
        assert not differs.any() or set(row[differs].tolist()) <= set(descending[near].tolist())
        assert (found[wanted & ~differs] == row[wanted & ~differs]).all()


def test_tokens_that_tie_with_the_last_of_the_nucleus_are_all_kept():
    assert (top_p(np.zeros((1, 4), np.float32), 0.1) == 0).all()
    found = top_p(np.log(np.float32([[0.1, 0.3, 0.3, 0.3]])), 0.4)[0]
    assert (np.asarray(found) > -INF).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("k", "kept"), [(0, [0, 1, 2, 3]), (1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (9, [0, 1, 2, 3])]
)
def test_the_k_likeliest_are_kept(k, kept):
    logits = np.float32([[0.15, 0.5, 0.1, 0.25]])
    found = np.asarray(top_k(logits, k))
    assert np.flatnonzero(found[0] > -INF).tolist() == kept
    assert (found[0, kept] == logits[0, kept]).all()


def test_the_nucleus_is_taken_of_the_k_likeliest():
    logits = np.log(np.float32([0.4, 0.3, 0.2, 0.1]))  # of the best two .57 and .43
    assert np.isfinite(processed(logits, top_p=0.5)).tolist() == [True, True, False, False]
    found = np.isfinite(processed(logits, top_p=0.5, top_k=2)).tolist()
    assert found == [True, False, False, False]


def test_seen_are_the_tokens_that_stand():
    found = seen_tokens(jnp.array([[4, 1, 0, 0], [2, 2, 3, 0]]), jnp.int32(3), 5)
    assert found.tolist() == [[True, True, False, False, True], [False, False, True, True, False]]


def test_draws_follow_the_distribution_and_skip_what_is_ruled_out():
    logits = jnp.log(jnp.array([0.2, 0.0, 0.5, 0.3]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = select_token(jnp.tile(logits, (20_000, 1)), keys, jnp.int32(4), "sample")
    shares = np.bincount(drawn, minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0.2, 0, 0.5, 0.3], atol=0.015)
    again = select_token(jnp.tile(logits, (20_000, 1)), keys, jnp.int32(5), "sample")
    assert (drawn != again).mean() > 0.3  # each position draws anew


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "best"}, r"method is 'best' \(str\); give 'sample', 'greedy' or 'beam'"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"min_length": 21}, "min_length is 21; .* max_length, 20"),
        ({"min_length": -1}, "min_length is -1"),
        ({"min_length": 0, "max_length": 0}, "max_length is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"length_penalty": INF}, "length_penalty is inf"),
        ({"num_captions": 0}, "num_captions is 0"),
        ({"method": "greedy", "num_captions": 2}, "num_captions is 2; .* at most 1"),
        (
            {"method": "beam", "num_beams": 3, "num_captions": 4},
            "num_captions is 4; .* num_beams=3 .* at most 3",
        ),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(UserError, match=named):
        Decoding(**options)
