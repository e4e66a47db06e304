"""Decoding: the original's distributions and texts, and what a text must not depend on."""

import dataclasses
import pathlib

import golden_file
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax import nn
from blip_jax.decoding import Decoding, generate
from blip_jax.decoding.logits import process_logits, select_token

PAD, EOS, VOCAB = 0, 3, 64
GREEDY = Decoding(method="greedy", repetition_penalty=1.0, min_length=4, max_length=12)


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


class Captioner:
    """The golden model and its images."""

    def __init__(self):
        self.file = golden_file.Golden(pathlib.Path(__file__).parent / "goldens" / "captioner.npz")
        self.config, self.inputs, self.outputs = (
            self.file.config(), self.file.inputs, self.file.outputs,
        )  # fmt: skip
        self.params = {"params": self.file.weights.params}
        self._apply = jax.jit(nn.Blip(self.config).apply, static_argnames=("role", "method"))
        tokens = self.apply(golden_file.image(self.inputs["image"]), method="encode_image")
        self.context = self.apply(tokens, role="decoder", method="image_context")
        self.prompt = jnp.asarray(self.inputs["prompt"], jnp.int32).at[:, 0].set(62)

    def apply(self, *args, **options):
        return self._apply(self.params, *args, **options)

    def generate(self, options, rows=(0, 1, 2, 3), seed=0, prompt=None, lengths=None):
        """Captions of the images `rows`, each drawn by its key in `keys`."""
        rows = np.asarray(rows)
        contexts = jax.tree.map(lambda x: x[:, rows], self.context).separate()
        separate = {"params": nn.separate_layers(self.params["params"])}

        def step(ids, cache, index):
            return self._apply(separate, ids, contexts, cache, index, method="decode_step")

        prompt = self.prompt[rows] if prompt is None else jnp.asarray(prompt)
        shape, params = options.shape(prompt.shape[1]), options.params(len(rows))
        cache = nn.init_cache(self.config, len(rows), shape.total_length)
        keys = jnp.stack([self.keys(row, options.num_captions, seed) for row in rows])
        write = jax.jit(generate, static_argnums=(0, 4, 6))
        return jax.device_get(write(step, cache, prompt, keys, shape, params, (EOS, PAD), lengths))

    @staticmethod
    def keys(row, count, seed=0):
        """PRNG keys [count] of the captions of one image."""
        base = jax.random.fold_in(jax.random.key(seed), row)
        return jax.vmap(lambda n: jax.random.fold_in(base, n))(jnp.arange(count))

    def logits(self, ids, rows=(0, 1, 2, 3)):
        """Next-token logits of whole texts, with no cache: float32 [B, T, V]."""
        context = jax.tree.map(lambda x: x[:, np.asarray(rows)], self.context)
        return self.apply(ids, np.ones(ids.shape, bool), context, method="lm_logits")


@pytest.fixture(scope="module")
def captioner():
    return Captioner()


@pytest.fixture(scope="module")
def nucleus(captioner):
    options = Decoding(max_length=14)
    return options, captioner.generate(options)


def processed(logits, seen, length, options):
    params = options.params(len(logits))
    return process_logits(logits, seen, jnp.int32(length), EOS, options.method, params)


def close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


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
    options = Decoding(top_p=0.9, repetition_penalty=1.1, min_length=6)
    found = jax.nn.softmax(processed(logits, seen, ids.shape[1], options))
    wanted = captioner.outputs["nucleus_probs"]
    assert ((np.asarray(found) > 0) == (wanted > 0)).all()
    close(found, wanted, 1e-5)


def test_greedy_texts_are_the_originals(captioner):
    found = captioner.generate(GREEDY)
    wanted = captioner.outputs["beam1_max12_min4_rep1.0"]
    np.testing.assert_array_equal(found.tokens[:, 0], wanted)
    assert found.length[:, 0].tolist() == (wanted != PAD).sum(1).tolist()


# What a text depends on, and what it does not.


def reference(captioner, options, row, number=0):
    """One text in plain Python, all of it computed anew for every token: (ids, log-probability)."""
    key = captioner.keys(row, number + 1)[number]
    ids, total = captioner.prompt[row].tolist(), 0.0
    while len(ids) < options.max_length and ids[-1] != EOS:
        padded = np.full((1, options.max_length), PAD, np.int32)
        padded[0, : len(ids)] = ids  # causal: what follows is not seen
        logits = captioner.logits(padded, [row])[:, len(ids) - 1]
        seen = np.isin(np.arange(VOCAB), ids)[None]
        allowed = processed(logits, seen, len(ids), options)
        token = int(select_token(allowed, key[None], jnp.int32(len(ids)), options.method)[0])
        total += float(jax.nn.log_softmax(logits)[0, token])
        ids.append(token)
    return ids + [PAD] * (options.max_length - len(ids)), total


@pytest.mark.parametrize("row", range(4))
def test_the_cached_loop_is_the_uncached_one(captioner, nucleus, row):
    options, found = nucleus
    tokens, log_probability = reference(captioner, options, row)
    assert found.tokens[row, 0].tolist() == tokens
    assert found.score[row, 0] == pytest.approx(log_probability, abs=1e-4)


def test_texts_end_once_and_are_padded_behind(nucleus):
    options, found = nucleus
    ended = 0
    for (tokens,), (length,) in zip(found.tokens.tolist(), found.length.tolist(), strict=True):
        assert set(tokens[length:]) <= {PAD}
        assert length >= options.min_length and EOS not in tokens[: length - 1]
        assert tokens[length - 1] == EOS or length == options.max_length
        ended += tokens[length - 1] == EOS
    assert ended and len(set(found.length[:, 0].tolist())) > 1  # or this shows nothing


def test_log_probabilities_are_those_of_what_was_written(captioner, nucleus):
    options, found = nucleus
    tokens, length = found.tokens[:, 0], found.length[:, 0]
    logp = jax.nn.log_softmax(captioner.logits(tokens))
    wanted = np.zeros(tokens.shape)
    for row in range(4):
        for t in range(captioner.prompt.shape[1], length[row]):
            wanted[row, t] = logp[row, t - 1, tokens[row, t]]
    np.testing.assert_allclose(found.log_probabilities[:, 0], wanted, atol=1e-4)
    np.testing.assert_allclose(found.score[:, 0], wanted.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("rows", [[2], [3, 0], [0, 0, 1, 2, 3, 3, 1]])
def test_a_text_does_not_depend_on_its_neighbours(captioner, nucleus, rows):
    options, wanted = nucleus
    found = captioner.generate(options, rows)
    np.testing.assert_array_equal(found.tokens, wanted.tokens[rows])
    np.testing.assert_allclose(found.score, wanted.score[rows], atol=1e-4)


def test_other_keys_give_other_texts(captioner, nucleus):
    options, first = nucleus
    other = captioner.generate(options, seed=1)
    assert (first.tokens != other.tokens).any(axis=(1, 2)).sum() >= 3


def test_several_captions_are_drawn_each_by_its_own_key(captioner, nucleus):
    options, single = nucleus
    several = captioner.generate(dataclasses.replace(options, num_captions=3))
    assert several.tokens.shape == (4, 3, 14)
    np.testing.assert_array_equal(several.tokens[:, :1], single.tokens)
    for number in (1, 2):
        tokens, log_probability = reference(captioner, options, 2, number)
        assert several.tokens[2, number].tolist() == tokens
        assert several.score[2, number] == pytest.approx(log_probability, abs=1e-4)
    assert all(len({tuple(text) for text in texts}) > 1 for texts in several.tokens.tolist())


PROMPTS = np.int32([[62, 5, 6, 7], [62, 9, 0, 0], [62, 0, 0, 0], [62, EOS, 8, 0]])
LENGTHS = np.int32([4, 2, 1, 3])


@pytest.mark.parametrize(
    "options",
    [
        Decoding(max_length=12, num_captions=2),
        Decoding(max_new_tokens=6, max_length=1, num_captions=2),
        dataclasses.replace(GREEDY, repetition_penalty=1.2),
    ],
)
def test_ragged_prompts_give_the_texts_of_each_alone(captioner, options):
    found = captioner.generate(options, prompt=PROMPTS, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = captioner.generate(options, [row], prompt=PROMPTS[row : row + 1, :length])
        room = alone.tokens.shape[-1]
        np.testing.assert_array_equal(found.tokens[row, :, :room], alone.tokens[0])
        assert (found.tokens[row, :, room:] == PAD).all()
        np.testing.assert_array_equal(found.length[row], alone.length[0])
        shown = found.log_probabilities[row, :, :room]
        np.testing.assert_allclose(shown, alone.log_probabilities[0], atol=1e-5)
        assert (shown[:, :length] == 0).all() and (found.length[row] > length).all()


def test_max_new_tokens_counts_from_the_prompts_end(captioner):
    options = Decoding(min_length=12, max_new_tokens=3)
    found = captioner.generate(options, prompt=PROMPTS, lengths=LENGTHS)
    assert found.tokens.shape == (4, 1, 7) and options.total_length(4) == 7
    assert found.length[:, 0].tolist() == [7, 5, 4, 6]


def test_one_program_serves_prompts_of_all_lengths():
    traces = []

    @jax.jit
    def write(prompt, lengths):
        traces.append(prompt.shape)
        step = lambda ids, cache, index: (jax.nn.one_hot(ids + 1, VOCAB), cache)  # noqa: E731
        size = GREEDY.shape(prompt.shape[1]), GREEDY.params(len(prompt))
        return generate(step, (), prompt, None, *size, (EOS, PAD), lengths).tokens

    for lengths in ([4, 2, 1, 3], [1, 1, 4, 2]):
        tokens = write(PROMPTS, np.int32(lengths))
        assert tokens[1, 0, lengths[1] : lengths[1] + 2].tolist() == [
            (PROMPTS[1, lengths[1] - 1] + 1) % VOCAB, (PROMPTS[1, lengths[1] - 1] + 2) % VOCAB,
        ]  # fmt: skip
    assert len(traces) == 1


def test_a_penalty_that_outweighs_all_lets_no_token_come_twice():
    logits = jnp.arange(VOCAB, 0.0, -1).at[PAD].set(-1.0)  # 1 is the likeliest, then 2, then EOS
    options = dataclasses.replace(GREEDY, repetition_penalty=1e6, min_length=6)
    found = generate(
        lambda ids, cache, index: (jnp.tile(logits, (*ids.shape, 1)), cache),
        (), jnp.array([[62, 2]]), None, options.shape(2), options.params(1), (EOS, PAD),
    )  # fmt: skip
    assert found.tokens[0, 0].tolist() == [62, 2, 1, 4, 5, 6, EOS] + [PAD] * 5


@pytest.mark.parametrize("method", ["sample", "greedy", "beam"])
@pytest.mark.parametrize("longest", [2, 3])
def test_a_prompt_as_long_as_the_text_comes_back_as_it_is(captioner, method, longest):
    options = Decoding(method=method, min_length=0, max_length=longest)
    found = captioner.generate(options)
    np.testing.assert_array_equal(found.tokens[:, 0], captioner.prompt)
    assert found.log_probabilities.tolist() == [[[0.0] * 3]] * 4
    assert found.score.tolist() == [[0.0]] * 4
    assert found.length.tolist() == [[3]] * 4
