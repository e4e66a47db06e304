"""Questions read with their image, answers read with their question: equal ways to the same."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from blip_jax import losses, nn
from blip_jax.decoding import Decoding, log_likelihood
from blip_jax.models import functions
from blip_jax.models.pmapped import method_caller

CONFIG = tiny.config(med={"sharing": "none"})
QUESTIONS = tiny.texts(3, seed=1)
ANSWERS = tiny.texts(6, seed=2)
IMAGES = tiny.images(3)
OPTIONS = Decoding(method="beam", num_beams=3, repetition_penalty=1.0, min_length=3, max_length=8)
SPECIAL = SimpleNamespace(sep=tiny.SEP, pad=tiny.PAD)


@pytest.fixture(scope="module")
def params():
    return tiny.init(CONFIG, 3, "vqa")


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(config, method, params, *args, **kw):
    return nn.Vqa(config).apply({"params": params}, *args, method=method, **kw)


def read(params, ids=QUESTIONS[0], mask=QUESTIONS[1], config=CONFIG):
    """(question states, what answers read of them)."""
    tokens = run(config, "encode_image", params, IMAGES[: len(ids)])
    states = run(config, "question_hidden_states", params, tokens, ids, mask)
    return states, run(config, "question_context", params, states, mask)


def spoilt(ids, mask):
    """Something else where the pads are, and three more of it."""
    ids = np.pad(np.where(mask, ids, 11), ((0, 0), (0, 3)), constant_values=13)
    return ids, np.pad(mask, ((0, 0), (0, 3)))


def test_the_texts_have_pads():
    assert not QUESTIONS[1].all() and not ANSWERS[1].all()


# Pads


def test_pads_of_a_question_change_nothing(params):
    ids, mask = QUESTIONS
    states, context = read(params)
    other, padded = read(params, *spoilt(ids, mask))
    np.testing.assert_allclose(other[:, : ids.shape[1]][mask], states[mask], atol=1e-5)
    assert np.abs(other[:, : ids.shape[1]] - states)[~mask].max() > 0.1
    wanted = run(CONFIG, "lm_logits", params, *ANSWERS, context)
    found = run(CONFIG, "lm_logits", params, *ANSWERS, padded)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pads_of_an_answer_change_nothing(params):
    ids, mask = ANSWERS
    context = read(params)[1]
    wanted = run(CONFIG, "lm_logits", params, ids, mask, context)
    found = run(CONFIG, "lm_logits", params, *spoilt(ids, mask), context)[:, : ids.shape[1]]
    np.testing.assert_allclose(found[mask], wanted[mask], atol=1e-5)


def written(params, question, quirks=()):
    """Answers by beam search."""
    config = tiny.config(med={"sharing": "none"}, quirks=quirks)
    model = SimpleNamespace(config=config, tokenizer=SimpleNamespace(ids=SPECIAL))
    states, _ = read(params, *question)
    apply = method_caller(nn.Vqa(config), params)
    size = OPTIONS.shape(1), OPTIONS.params(len(states))
    generate = jax.jit(
        lambda states, mask: functions.generate_answers(apply, model, states, mask, *size)
    )
    return generate(states, question[1])


def test_written_answers_read_pads_only_with_the_quirk(params):
    plain, padded = (written(params, x) for x in (QUESTIONS, spoilt(*QUESTIONS)))
    np.testing.assert_array_equal(plain.tokens, padded.tokens)
    np.testing.assert_allclose(plain.score, padded.score, atol=1e-5)
    quirk = ("unmasked_question",)
    plain, padded = (written(params, x, quirk) for x in (QUESTIONS, spoilt(*QUESTIONS)))
    assert np.abs(plain.score - padded.score).min() > 1e-3


# Batches, rows, caches, scans


def test_answers_in_a_batch_are_answers_alone(params):
    ids, mask = ANSWERS
    together = run(CONFIG, "lm_logits", params, ids, mask, read(params)[1])
    for question in range(3):
        tokens = run(CONFIG, "encode_image", params, IMAGES[question : question + 1])
        own = [x[question : question + 1] for x in QUESTIONS]
        states = run(CONFIG, "question_hidden_states", params, tokens, *own)
        context = run(CONFIG, "question_context", params, states, own[1])
        for answer in (2 * question, 2 * question + 1):
            row = slice(answer, answer + 1)
            alone = run(CONFIG, "lm_logits", params, ids[row], mask[row], context)
            np.testing.assert_allclose(together[row], alone, atol=1e-5)


@pytest.mark.parametrize("rows", [[2, 0, 0, 1, 2, 2], [0, 0, 0, 0, 0, 1]])
def test_rows_pick_the_question_with_its_mask(params, rows):
    context = read(params)[1]
    picked = run(CONFIG, "lm_logits", params, *ANSWERS, context, np.array([rows]))
    key, value, mask = (np.asarray(x) for x in context[:3])
    by_hand = context._replace(key=key[:, rows], value=value[:, rows], mask=mask[rows])
    wanted = run(CONFIG, "lm_logits", params, *ANSWERS, by_hand)
    np.testing.assert_allclose(picked, wanted, atol=1e-6)
    straight = run(CONFIG, "lm_logits", params, *ANSWERS, context)
    assert np.abs(picked - straight).max() > 0.1


def test_cached_decoding_is_uncached_decoding(params):
    ids = np.random.default_rng(1).integers(5, 30, (6, 7)).astype(np.int32)
    ids[:, 0] = CONFIG.med.dec_token
    context = read(params)[1]
    whole = run(CONFIG, "lm_logits", params, ids, np.ones((6, 7), bool), context)
    cache = nn.init_cache(CONFIG, 6, 9)  # with room to spare
    params, context = nn.separate_layers(params), context.separate()
    found, cache = run(CONFIG, "decode_step", params, ids[:, :3], context, cache, 0)
    found = [found]
    for position in range(3, 7):
        token = ids[:, position : position + 1]
        logits, cache = run(CONFIG, "decode_step", params, token, context, cache, position)
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, atol=1e-5)


@pytest.mark.slow
def test_remat_changes_no_number(params):
    ids, mask = ANSWERS

    def loss(params, config):
        call = functools.partial(nn.Vqa(config).apply, {"params": params}, train=True)
        rngs = {"dropout": jax.random.key(4)}
        tokens = call(IMAGES, method="encode_image", rngs=rngs)
        states = call(tokens, *QUESTIONS, method="question_hidden_states", rngs=rngs)
        context = nn.Vqa(config).apply(
            {"params": params}, states, QUESTIONS[1], method="question_context"
        )
        logits = call(ids, mask, context, method="lm_logits", rngs=rngs)
        loss, weight = losses.lm_loss(logits, ids, mask)
        return (loss * weight).sum() / weight.sum()

    valued = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    med = {"sharing": "none", "dropout": 0.1}
    (plain, wanted), (loss, found) = (
        valued(params, tiny.config(med=med, remat=remat)) for remat in ("none", "full")
    )
    # The encoder's too: an answer's loss reaches the image through the question.
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(wanted))
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    for want, got in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))


# The token of each role


def test_first_tokens_are_of_the_role(params):
    ids, mask = QUESTIONS
    other = np.array(ids)
    other[:, 0] = 9
    np.testing.assert_array_equal(read(params)[0], read(params, other, mask)[0])
    quirk = tiny.config(med={"sharing": "none"}, quirks=("cls_for_enc",))
    kept = read(params, config=quirk)[0]
    assert np.abs(kept - read(params)[0]).max() > 0.1
    other[:, 0] = CONFIG.med.enc_token
    np.testing.assert_array_equal(read(params, other, mask, quirk)[0], read(params)[0])


def test_ranked_answers_are_the_likeliest_in_full(params):
    """With k = all; with k = 1 the one whose first token is the likeliest."""
    ids, mask = ANSWERS
    states, context = read(params)
    rows = np.repeat(np.arange(3), 6)[None]
    repeated = [np.tile(x, (3, 1)) for x in ANSWERS]
    logits = run(CONFIG, "lm_logits", params, *repeated, context, rows)
    likelihood = np.reshape(log_likelihood(logits, *repeated), (3, 6))
    first = np.asarray(logits[::6, 0])[:, ids[:, 1]]

    def ranked(k, quirks=()):
        config = tiny.config(med={"sharing": "none"}, quirks=quirks)
        model = SimpleNamespace(config=config)

        def apply(method, *args):
            return nn.Vqa(config).apply({"params": params}, *args, method=method)

        candidates = jnp.asarray(ids), jnp.asarray(mask), jnp.ones(len(ids), bool)
        return jax.jit(
            lambda states: functions.rank_answers(apply, model, states, QUESTIONS[1], candidates, k)
        )(states)

    index, score = ranked(6)
    np.testing.assert_array_equal(index, likelihood.argmax(-1))
    np.testing.assert_allclose(score, likelihood.max(-1), atol=1e-5)
    index, score = ranked(1)
    np.testing.assert_array_equal(index, first.argmax(-1))
    np.testing.assert_allclose(score, likelihood[np.arange(3), index], atol=1e-5)
    smoothed = np.reshape(log_likelihood(logits, *repeated, smoothing=0.1), (3, 6))
    index, score = ranked(6, ("smoothed_ranking",))
    np.testing.assert_allclose(score, smoothed.max(-1), atol=1e-5)
    assert np.abs(smoothed.max(-1) - likelihood.max(-1)).min() > 1e-3
