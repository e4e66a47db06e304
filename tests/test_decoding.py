"""Decoding: the original's distributions and texts, and what a text must not depend on."""

import dataclasses
import pathlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax import models
from blip_jax.decoding import Sampling, generate
from blip_jax.decoding.sampling import choose, process, top_p
from blip_jax.errors import UserError

PAD, EOS, VOCAB = 0, 3, 64
GREEDY = Sampling(method="greedy", repetition_penalty=1.0, min_length=4, max_length=12)
INF = np.inf


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


class Captioner:
    """The golden model and its images."""

    def __init__(self):
        self.file = golden.Golden(pathlib.Path(__file__).parent / "goldens" / "captioner.npz")
        self.config, self.inputs, self.outputs = (
            self.file.config(), self.file.inputs, self.file.outputs,
        )  # fmt: skip
        self.params = {"params": self.file.params()}
        self._apply = jax.jit(models.Blip(self.config).apply, static_argnames=("role", "method"))
        tokens = self.apply(golden.image(self.inputs["image"]), method="encode_image")
        self.context = self.apply(tokens, role="decoder", method="context")
        self.prompt = jnp.asarray(self.inputs["prompt"], jnp.int32).at[:, 0].set(62)

    def apply(self, *args, **options):
        return self._apply(self.params, *args, **options)

    def generate(self, options, rows=(0, 1, 2, 3), seed=0):
        """Captions of the images `rows`, each drawn by the key of its row."""
        rows = np.asarray(rows)
        context = jax.tree.map(lambda x: x[:, rows], self.context)

        def step(ids, cache, index):
            return self.apply(ids, context, cache, index, method="decode_step")

        cache = models.init_cache(self.config, len(rows), options.max_length)
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)
        prompt = self.prompt[rows]
        return jax.device_get(
            jax.jit(lambda: generate(step, cache, prompt, keys, options, (EOS, PAD)))()
        )

    def logits(self, ids, rows=(0, 1, 2, 3)):
        """Next-token logits of whole texts, with no cache: float32 [B, T, V]."""
        context = jax.tree.map(lambda x: x[:, np.asarray(rows)], self.context)
        return self.apply(ids, np.ones(ids.shape, bool), context, method="lm_logits")


@pytest.fixture(scope="module")
def captioner():
    return Captioner()


@pytest.fixture(scope="module")
def nucleus(captioner):
    options = Sampling(max_length=14)
    return options, captioner.generate(options)


def close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


# What a token is drawn from.


def processed(logits, seen=(), length=9, **options):
    mask = np.isin(np.arange(len(logits)), list(seen))[None]
    values = {"top_p": 1.0, "repetition_penalty": 1.0, "min_length": 0, **options}
    row = np.array([logits], np.float32)
    return process(row, mask, jnp.int32(length), EOS, Sampling(**values))[0].tolist()


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    found = processed([2.0, -2.0, 0.0, 4.0, -4.0], seen=[0, 1, 2], repetition_penalty=2.0)
    assert found == [1.0, -4.0, 0.0, 4.0, -4.0]


@pytest.mark.parametrize(("length", "end"), [(5, -INF), (6, 4.0), (7, 4.0)])
@pytest.mark.parametrize("method", ["nucleus", "greedy"])
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


def test_tokens_that_tie_with_the_last_of_the_nucleus_are_all_kept():
    assert (top_p(np.zeros((1, 4), np.float32), 0.1) == 0).all()
    found = top_p(np.log(np.float32([[0.1, 0.3, 0.3, 0.3]])), 0.4)[0]
    assert (np.asarray(found) > -INF).tolist() == [False, True, True, True]


def test_draws_follow_the_distribution_and_skip_what_is_ruled_out():
    logits = jnp.log(jnp.array([0.2, 0.0, 0.5, 0.3]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = choose(jnp.tile(logits, (20_000, 1)), keys, jnp.int32(4), Sampling())
    shares = np.bincount(drawn, minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0.2, 0, 0.5, 0.3], atol=0.015)
    again = choose(jnp.tile(logits, (20_000, 1)), keys, jnp.int32(5), Sampling())
    assert (drawn != again).mean() > 0.3  # each position draws anew


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "beam"}, "'beam' is unknown: nucleus, greedy"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"temperature": 0.0}, "temperature"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"min_length": 21}, "min_length 21 .* max_length 20"),
        ({"min_length": -1}, "min_length -1"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(UserError, match=named):
        Sampling(**options)


# The original's values.


def test_logits_are_the_originals(captioner):
    ids, mask = captioner.inputs["ids"], captioner.inputs["mask"].astype(bool)
    found = captioner.apply(ids, mask, captioner.context, method="lm_logits")
    close(found[mask], captioner.outputs["logits"][mask], 1e-4)


def test_the_nucleus_distribution_is_the_originals(captioner):
    ids = jnp.asarray(captioner.inputs["nucleus_context"], jnp.int32)
    logits = captioner.logits(ids)[:, -1]
    close(logits, captioner.outputs["nucleus_logits"], 1e-4)
    seen = (np.asarray(ids)[:, :, None] == np.arange(VOCAB)).any(1)
    options = Sampling(top_p=0.9, repetition_penalty=1.1, min_length=6)
    found = jax.nn.softmax(process(logits, seen, jnp.int32(ids.shape[1]), EOS, options))
    wanted = captioner.outputs["nucleus_probs"]
    assert ((np.asarray(found) > 0) == (wanted > 0)).all()
    close(found, wanted, 1e-5)


def test_greedy_texts_are_the_originals(captioner):
    found = captioner.generate(GREEDY)
    wanted = captioner.outputs["beam1_max12_min4_rep1.0"]
    np.testing.assert_array_equal(found.tokens, wanted)
    assert found.length.tolist() == (wanted != PAD).sum(1).tolist()


# What a text depends on, and what it does not.


def reference(captioner, options, row, seed=0):
    """One text in plain Python, all of it computed anew for every token: (ids, log-probability)."""
    key = jax.random.fold_in(jax.random.key(seed), row)
    ids, total = captioner.prompt[row].tolist(), 0.0
    while len(ids) < options.max_length and ids[-1] != EOS:
        padded = np.full((1, options.max_length), PAD, np.int32)
        padded[0, : len(ids)] = ids  # causal: what follows is not seen
        logits = captioner.logits(padded, [row])[:, len(ids) - 1]
        seen = np.isin(np.arange(VOCAB), ids)[None]
        allowed = process(logits, seen, jnp.int32(len(ids)), EOS, options)
        token = int(choose(allowed, key[None], jnp.int32(len(ids)), options)[0])
        total += float(jax.nn.log_softmax(logits)[0, token])
        ids.append(token)
    return ids + [PAD] * (options.max_length - len(ids)), total


@pytest.mark.parametrize("row", range(4))
def test_the_cached_loop_is_the_uncached_one(captioner, nucleus, row):
    options, found = nucleus
    tokens, log_probability = reference(captioner, options, row)
    assert found.tokens[row].tolist() == tokens
    assert found.log_probability[row] == pytest.approx(log_probability, abs=1e-4)


def test_texts_end_once_and_are_padded_behind(nucleus):
    options, found = nucleus
    ended = 0
    for tokens, length in zip(found.tokens.tolist(), found.length.tolist(), strict=True):
        assert set(tokens[length:]) <= {PAD}
        assert length >= options.min_length and EOS not in tokens[: length - 1]
        assert tokens[length - 1] == EOS or length == options.max_length
        ended += tokens[length - 1] == EOS
    assert ended and len(set(found.length.tolist())) > 1  # or this shows nothing


def test_log_probability_is_the_sum_over_what_was_written(captioner, nucleus):
    options, found = nucleus
    logp = jax.nn.log_softmax(captioner.logits(found.tokens))
    start = captioner.prompt.shape[1]
    wanted = [
        sum(float(logp[row, t - 1, tokens[t]]) for t in range(start, length))
        for row, (tokens, length) in enumerate(zip(found.tokens, found.length, strict=True))
    ]
    np.testing.assert_allclose(found.log_probability, wanted, atol=1e-4)


@pytest.mark.parametrize("rows", [[2], [3, 0], [0, 0, 1, 2, 3, 3, 1]])
def test_a_text_does_not_depend_on_its_neighbours(captioner, nucleus, rows):
    options, wanted = nucleus
    found = captioner.generate(options, rows)
    np.testing.assert_array_equal(found.tokens, wanted.tokens[rows])
    np.testing.assert_allclose(found.log_probability, wanted.log_probability[rows], atol=1e-4)


def test_other_keys_give_other_texts(captioner, nucleus):
    options, first = nucleus
    other = captioner.generate(options, seed=1)
    assert (first.tokens != other.tokens).any(axis=1).sum() >= 3


def test_a_penalty_that_outweighs_all_lets_no_token_come_twice():
    logits = jnp.arange(VOCAB, 0.0, -1).at[PAD].set(-1.0)  # 1 is the likeliest, then 2, then EOS
    options = dataclasses.replace(GREEDY, repetition_penalty=1e6, min_length=6)
    found = generate(
        lambda ids, cache, index: (jnp.tile(logits, (*ids.shape, 1)), cache),
        jnp.zeros(0), jnp.array([[62, 2]]), jax.random.key(0)[None], options, (EOS, PAD),
    )  # fmt: skip
    assert found.tokens[0].tolist() == [62, 2, 1, 4, 5, 6, EOS] + [PAD] * 5


def test_a_prompt_as_long_as_the_text_comes_back_as_it_is(captioner):
    options = Sampling(min_length=0, max_length=captioner.prompt.shape[1])
    found = captioner.generate(options)
    np.testing.assert_array_equal(found.tokens, captioner.prompt)
    assert found.log_probability.tolist() == [0.0] * 4
    assert found.length.tolist() == [3] * 4
