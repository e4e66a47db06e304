"""Beam search: a plain-Python one beside it, the greedy search, and what must not matter."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.decoding import Decoding, generate

PAD, EOS, DEC, VOCAB, IMAGES = 0, 1, 2, 11, 5
PLAIN = {"method": "beam", "repetition_penalty": 1.0, "min_length": 0, "max_length": 10}
PROMPT = np.full((IMAGES, 1), DEC, np.int32)
RAGGED = np.int32([[2, 5, 6, 3], [2, 4, 0, 0], [2, 0, 0, 0], [2, EOS, 7, 0], [2, 8, 8, 0]])
LENGTHS = np.int32([4, 2, 1, 3, 3])


class Toy:
    """A model whose next token depends on the last two and on the image.

    The token before the last comes from the cache, so that a cache out of order shows.
    """

    def __init__(self, seed, end=2.5, spread=1.5):
        random = np.random.default_rng(seed)
        shape = (IMAGES, VOCAB, VOCAB, VOCAB)
        self.table = (spread * random.normal(size=shape)).astype(np.float32)
        self.table[..., EOS] += end  # so that pools fill
        self.table[..., PAD] -= 20.0

    def logits(self, image, ids):
        """float32 [V] behind a whole text."""
        return self.table[image, ids[-2] if len(ids) > 1 else 0, ids[-1]]

    def write(self, options, prompt=PROMPT, lengths=None, rows=range(IMAGES)):
        return jax.device_get(write(self.table[np.asarray(rows)], prompt, lengths, options))


@functools.partial(jax.jit, static_argnums=3)
def write(table, prompt, lengths, options):
    """Texts of the images of `table` [B, V, V, V]; the cache holds the tokens, [R, T]."""

    def step(ids, cache, index):
        count, width = ids.shape
        cache = jax.lax.dynamic_update_slice(cache, ids, (0, index))
        at = index + jnp.arange(width)
        before = jnp.where(at > 0, cache[:, at - 1], 0)
        image = jnp.arange(count) // (count // len(table))
        return table[image[:, None], before, ids], cache

    shape, params = options.shape(prompt.shape[1]), options.params(len(prompt))
    cache = jnp.zeros((len(prompt), shape.total_length), jnp.int32)
    return generate(step, cache, prompt, None, shape, params, (EOS, PAD), lengths)


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def plain(logits, prompt, options, limit):
    """Beam search for one image as lists: [(score, ids, own log-probabilities)], best first.

    logits: a function of ids to float [V].
    """
    count, power = options.num_beams, options.length_penalty
    counts_prompt = options.length_rule == "transformers-4.25"
    before, end = (0, 0) if counts_prompt else (len(prompt), 1)
    beams = [(0.0 if i == 0 else -1e9, list(prompt), []) for i in range(count)]
    pool = []

    def add(total, ids, own, length):
        pool.append((total / length**power, ids, own))
        pool.sort(key=lambda text: -text[0])
        del pool[count:]

    while True:
        found = []
        for total, ids, own in beams:
            raw = log_softmax(logits(ids))
            score = raw.copy()
            for token in set(ids):
                score[token] *= options.repetition_penalty
            if len(ids) < options.min_length:
                score[EOS] = -np.inf
            found += [
                (total + score[token], [*ids, token], [*own, raw[token]]) for token in range(VOCAB)
            ]
        found = sorted(found, key=lambda text: -text[0])[: 2 * count]
        length = len(beams[0][1]) - before + end
        for rank, (total, ids, own) in enumerate(found):
            if ids[-1] == EOS and rank < count:
                add(total, ids, own, length)
        beams = [text for text in found if text[1][-1] != EOS][:count]
        best = found[0][0] if counts_prompt else beams[0][0]
        full = len(pool) == count
        full = full and (options.early_stopping or pool[-1][0] >= best / length**power)
        at_limit = len(beams[0][1]) == limit
        if at_limit and not (full and counts_prompt):
            for total, ids, own in beams:
                add(total, ids, own, limit - before)
        if full or at_limit:
            return pool, "full" if full else "limit"


def same(found, row, wanted, start):
    """Whether the texts of an image are those of the plain search, with all that goes with them."""
    assert found.tokens.shape[1] <= len(wanted)
    for number in range(found.tokens.shape[1]):
        score, ids, own = wanted[number]
        tokens = found.tokens[row, number]
        assert tokens[: len(ids)].tolist() == ids
        assert (tokens[len(ids) :] == PAD).all()
        assert found.length[row, number] == len(ids)
        assert found.score[row, number] == pytest.approx(score, abs=1e-5)
        log_probabilities = np.zeros(len(tokens))
        log_probabilities[start : len(ids)] = own
        np.testing.assert_allclose(
            found.log_probabilities[row, number], log_probabilities, atol=1e-5
        )


TOYS = list(itertools.product(range(2), [0.0, 2.5]))
SETTINGS = [
    {"num_beams": 2, "num_captions": 2},
    {"num_beams": 3, "num_captions": 3},
    {"num_beams": 5, "num_captions": 5},
    {"num_beams": 3, "num_captions": 1, "length_penalty": 0.0},
    {"num_beams": 3, "num_captions": 3, "length_penalty": 2.5},
    {"num_beams": 4, "num_captions": 4, "length_penalty": -1.0},
    {"num_beams": 3, "num_captions": 3, "min_length": 6},
    {"num_beams": 3, "num_captions": 3, "repetition_penalty": 1.7, "min_length": 4},
    {"num_beams": 4, "num_captions": 4, "early_stopping": True},
    {"num_beams": 3, "num_captions": 3, "length_rule": "transformers-5"},
    {"num_beams": 4, "num_captions": 2, "length_rule": "transformers-5", "length_penalty": 1.5},
    {"num_beams": 4, "num_captions": 4, "length_rule": "transformers-5", "early_stopping": True},
    {"num_beams": 3, "num_captions": 3, "max_new_tokens": 4},
]


@pytest.mark.parametrize("values", SETTINGS, ids=lambda values: "-".join(map(str, values.values())))
def test_the_texts_are_those_of_the_plain_search(values):
    options = Decoding(**{**PLAIN, **values})
    for seed, end in TOYS:
        toy = Toy(seed, end)
        found = toy.write(options)
        ragged = toy.write(options, RAGGED, LENGTHS)
        for row in range(IMAGES):
            logits = lambda ids, toy=toy, row=row: toy.logits(row, ids)  # noqa: E731
            wanted, _ = plain(logits, [DEC], options, options.total_length(1))
            same(found, row, wanted, 1)
            start = LENGTHS[row]
            wanted, _ = plain(
                logits, RAGGED[row, :start].tolist(), options, options.total_length(start)
            )
            same(ragged, row, wanted, start)


def test_the_plain_search_ends_in_both_ways():
    """Or the test above shows less than it seems to."""
    ways = set()
    for seed, end in TOYS:
        toy = Toy(seed, end)
        for row in range(IMAGES):
            logits = lambda ids, toy=toy, row=row: toy.logits(row, ids)  # noqa: E731
            ways.add(plain(logits, [DEC], Decoding(**PLAIN), 10)[1])
    assert ways == {"full", "limit"}


@pytest.mark.parametrize("values", [{}, {"repetition_penalty": 1.5, "min_length": 5}])
def test_one_beam_is_greedy(values):
    toy = Toy(0)
    one = toy.write(Decoding(**{**PLAIN, **values, "num_beams": 1}), RAGGED, LENGTHS)
    greedy = toy.write(Decoding(**{**PLAIN, **values, "method": "greedy"}), RAGGED, LENGTHS)
    jax.tree.map(np.testing.assert_array_equal, one, greedy)
    assert len(set(one.length[:, 0].tolist())) > 1


@pytest.mark.parametrize("rows", [[3], [4, 0, 0, 2]])
def test_a_text_does_not_depend_on_its_neighbours(rows):
    toy, options = Toy(1), Decoding(**PLAIN, num_captions=3)
    wanted = toy.write(options, RAGGED, LENGTHS)
    found = toy.write(options, RAGGED[rows], LENGTHS[rows], rows)
    np.testing.assert_array_equal(found.tokens, wanted.tokens[rows])
    np.testing.assert_allclose(found.score, wanted.score[rows], rtol=1e-6)


def test_captions_are_distinct_and_the_best_comes_first():
    options = Decoding(**{**PLAIN, "min_length": 3}, num_beams=5, num_captions=5)
    found = Toy(2).write(options)
    for texts, scores in zip(found.tokens.tolist(), found.score.tolist(), strict=True):
        assert len({tuple(text) for text in texts}) == 5
        assert scores == sorted(scores, reverse=True)
    fewer = Toy(2).write(Decoding(**{**PLAIN, "min_length": 3}, num_beams=5, num_captions=2))
    np.testing.assert_array_equal(fewer.tokens, found.tokens[:, :2])


def test_without_penalties_the_score_is_the_mean_of_the_log_probabilities():
    found = Toy(0).write(Decoding(**PLAIN, num_captions=3, length_rule="transformers-5"))
    mean = found.log_probabilities.sum(-1) / (found.length - 1)
    np.testing.assert_allclose(found.score, mean, rtol=1e-6)


def test_one_program_serves_prompts_of_all_lengths():
    toy, options = Toy(0), Decoding(**PLAIN)
    toy.write(options, RAGGED, LENGTHS)
    programs = write._cache_size()
    lengths = np.int32([1, 1, 4, 2, 3])
    found = toy.write(options, RAGGED, lengths)
    assert write._cache_size() == programs
    for row, length in enumerate(lengths):
        logits = lambda ids, row=row: toy.logits(row, ids)  # noqa: E731
        same(found, row, plain(logits, RAGGED[row, :length].tolist(), options, 10)[0], length)
