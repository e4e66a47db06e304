"""Attention masks as literal matrices; 1 = may attend."""

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.nn import masks

# Two texts of four places: three tokens and a pad, four tokens.
MASK = jnp.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)


def same(mask, rows):
    assert mask.dtype == bool
    np.testing.assert_array_equal(np.asarray(mask, int), rows)


def test_padding_hides_pads_from_every_query():
    same(masks.padding(MASK), [[[[1, 1, 1, 0]]], [[[1, 1, 1, 1]]]])


def test_causal_hides_what_comes_later():
    same(masks.causal(3), [[[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]])
    same(masks.causal(1), [[[[1]]]])


def test_decoder_hides_both():
    short = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    full = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    same(masks.decoder(MASK), [[short], [full]])


def test_cached_queries_see_the_cache_up_to_themselves():
    same(masks.cached(2, 2, 5), [[[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]]])
    same(masks.cached(4, 1, 5), [[[[1, 1, 1, 1, 1]]]])


def test_cached_takes_an_index_known_only_when_it_runs():
    mask = jax.jit(lambda index: masks.cached(index, 1, 4))(jnp.int32(1))
    same(mask, [[[[1, 1, 0, 0]]]])


def test_cached_from_the_start_is_causal():
    same(masks.cached(0, 4, 4), np.asarray(masks.causal(4), int))
