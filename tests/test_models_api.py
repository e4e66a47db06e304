"""Matches, features, states, judgements and answers: by other ways and in other batches."""

import jax.numpy as jnp
import network_calls
import numpy as np
import pytest
from network_calls import FILES, PIXELS, TEXTS

from blip_jax.decoding import log_likelihood

# Matching


def test_match_is_what_the_network_gives(model):
    retrieval = model("retrieval")
    found = retrieval.match(FILES, TEXTS)
    ids, mask = retrieval.tokenizer.encode(TEXTS, 24)
    context = network_calls.context_of(retrieval, PIXELS, "encoder")
    logits = network_calls.call(retrieval, "itm_logits", ids, mask, context)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    odds = np.exp(found.logits[:, 1] - found.logits[:, 0])
    np.testing.assert_allclose(found.probability, odds / (1 + odds), rtol=1e-5)
    assert found.probability.shape == found.cosine.shape == (10,)
    images, texts = retrieval.encode_image(FILES), retrieval.encode_text(TEXTS)
    assert images.shape == texts.shape == (10, 8)
    for features in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.cosine, (images * texts).sum(-1), atol=1e-5)
    np.testing.assert_allclose(
        images,
        network_calls.call(retrieval, "image_features", network_calls.tokens_of(retrieval)),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        texts, network_calls.call(retrieval, "text_features", ids, mask), atol=1e-5
    )
    assert np.std(found.probability) > 1e-3 and np.std(found.cosine) > 1e-3


MATCH = ("probability", "cosine", "logits")


def test_several_texts_an_image(model):
    retrieval = model("retrieval")
    nested = [[TEXTS[row], TEXTS[row - 1], "a dog"] for row in range(5)]
    found = retrieval.match(FILES[:5], nested)
    assert found.probability.shape == found.cosine.shape == (5, 3)
    assert found.logits.shape == (5, 3, 2)
    for column in range(3):
        pairs = retrieval.match(FILES[:5], [row[column] for row in nested])
        for name in MATCH:
            many, one = getattr(found, name), getattr(pairs, name)
            np.testing.assert_allclose(many[:, column], one, atol=1e-5)


def test_a_texts_neighbours_do_not_matter(model):
    """A long text gives its neighbours more pads."""
    retrieval = model("retrieval")
    long = " ".join(TEXTS[:3])
    ids, mask = retrieval.tokenizer.encode([long, TEXTS[1]], 24)
    assert mask.sum(-1)[0] > 16 >= mask.sum(-1)[1]
    alone = retrieval.match(FILES[1], TEXTS[1])
    beside = retrieval.match(FILES[:2], [long, TEXTS[1]])
    for name in MATCH:
        one, two = getattr(alone, name), getattr(beside, name)
        np.testing.assert_allclose(one[0], two[1], atol=1e-5)
    features = retrieval.encode_text([long, TEXTS[1]])
    np.testing.assert_allclose(features[1:], retrieval.encode_text(TEXTS[1]), atol=1e-5)


def test_texts_are_cleaned_unless_not_wanted(model):
    retrieval = model("retrieval")
    clean, same, raw = (
        retrieval.match(FILES[0], text, clean=clean).probability
        for text, clean in (
            ("A (red) circle!", True),
            ("a red circle", True),
            ("A (red) circle!", False),
        )
    )
    assert clean == same != raw


def test_aligned_features(model):
    aligned = model("aligned")
    images, texts = aligned.encode_image(FILES), aligned.encode_text(TEXTS)
    ids, mask = aligned.tokenizer.encode(TEXTS, 24)
    for features in (images, texts):
        assert features.shape == (10, 8)
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    wanted = network_calls.call(aligned, "image_features", network_calls.tokens_of(aligned))
    np.testing.assert_allclose(images, wanted, atol=1e-5)
    np.testing.assert_allclose(
        texts, network_calls.call(aligned, "text_features", ids, mask), atol=1e-5
    )
    few = aligned.encode_text(TEXTS, batch_size=8)
    np.testing.assert_allclose(few, texts, atol=1e-5)


# Hidden states


@pytest.mark.parametrize("model_type", ["features", "pretrain"])
def test_states_of_images_of_texts_and_of_both(model, model_type):
    features = model(model_type)
    ids, mask = features.tokenizer.encode(TEXTS, 24)
    images = features.hidden_states(FILES)
    assert images.shape == (10, 5, 16)
    np.testing.assert_allclose(images, network_calls.tokens_of(features), atol=1e-5)
    texts = features.hidden_states(texts=TEXTS)
    assert texts.shape[0] == 10 and texts.shape[2] == 16
    length = texts.shape[1]
    wanted = np.asarray(network_calls.call(features, "encode_text", ids, mask))[:, :length]
    real = mask[:, :length]
    np.testing.assert_allclose(texts[real], wanted[real], atol=1e-5)
    both = features.hidden_states(FILES, TEXTS)
    context = network_calls.context_of(features, PIXELS, "encoder")
    wanted = np.asarray(network_calls.call(features, "encode_text_with_image", ids, mask, context))[
        :, :length
    ]
    np.testing.assert_allclose(both[real], wanted[real], atol=1e-5)
    assert np.abs(both - texts)[real].max() > 0.1
    np.testing.assert_allclose(features.hidden_states(FILES[0], TEXTS[0])[0], both[0], atol=1e-5)


# Two images


def test_judging_is_what_the_network_gives(model):
    nlvr = model("nlvr")
    found = nlvr.verify(FILES, FILES[::-1], TEXTS)
    ids, mask = nlvr.tokenizer.encode(TEXTS, 24)
    contexts = network_calls.call(
        nlvr,
        "image_contexts",
        network_calls.tokens_of(nlvr),
        network_calls.tokens_of(nlvr, PIXELS[::-1]),
    )
    logits = np.asarray(network_calls.call(nlvr, "logits", ids, mask, contexts))
    odds = np.exp(logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose(found, odds / (1 + odds), atol=1e-5)
    assert found.shape == (10,) and np.std(found) > 1e-3
    few = nlvr.verify(FILES, FILES[::-1], TEXTS, batch_size=8)
    np.testing.assert_allclose(few, found, atol=1e-5)
    one = nlvr.verify(FILES[0], FILES[9], TEXTS[0])
    np.testing.assert_allclose(one, found[:1], atol=1e-5)
    assert np.abs(nlvr.verify(FILES[::-1], FILES, TEXTS) - found).max() > 1e-3


# Questions

QUESTIONS = ["what colour is the circle?", "is there a square", "how many are red", "where", "why"]
ANSWERS = ["red", "a large blue square", "two", "yes", "no", "left of the circle"]


def test_answers_are_written(model):
    vqa = model("vqa")
    found = vqa.answer(FILES, QUESTIONS * 2)
    texts = [str(x) for x in vqa.answer(FILES, QUESTIONS * 2, batch_size=8)]
    assert [answer.text for answer in found] == texts
    assert len(set(texts)) > 1 and all(answer.score < 0 for answer in found)
    assert [str(x) for x in vqa.answer(FILES[3], QUESTIONS[3])] == texts[3:4]
    # One beam begins with the likeliest token, by the network on one device.
    greedy = vqa.answer(FILES[:5], QUESTIONS, num_beams=1)
    ids, mask = encoded(vqa, QUESTIONS)
    assert mask.sum(-1).min() < mask.sum(-1).max()
    states = network_calls.call(
        vqa, "question_hidden_states", network_calls.tokens_of(vqa, PIXELS[:5]), ids, mask
    )
    context = network_calls.call(vqa, "question_context", states, mask)
    logits = network_calls.call(
        vqa, "lm_logits", np.zeros((5, 1), np.int32), np.ones((5, 1), bool), context
    )
    first = vqa.tokenizer.decode(np.asarray(logits).argmax(-1))
    assert all(x.text.startswith(token) for x, token in zip(greedy, first)) and all(first)


def encoded(vqa, texts):
    """ids and mask as the model reads them."""
    return vqa.tokenizer.encode(texts, 24)


def likelihoods(vqa):
    """Log-probabilities of all answers to each question, [5, 6]; of their first tokens [5, 6]."""
    ids, mask = encoded(vqa, QUESTIONS)
    states = network_calls.call(
        vqa, "question_hidden_states", network_calls.tokens_of(vqa, PIXELS[:5]), ids, mask
    )
    context = network_calls.call(vqa, "question_context", states, mask)
    answers = [np.tile(x, (5, 1)) for x in encoded(vqa, ANSWERS)]
    rows = jnp.repeat(jnp.arange(5), 6)[None]
    logits = network_calls.call(vqa, "lm_logits", *answers, context, rows)
    first = np.asarray(logits)[np.arange(30), 0, answers[0][:, 1]]
    return np.reshape(log_likelihood(logits, *answers), (5, 6)), first.reshape(5, 6)


def test_answers_are_chosen_by_their_likelihood(model):
    vqa = model("vqa")
    whole, first = likelihoods(vqa)
    found = vqa.answer(FILES[:5], QUESTIONS, ANSWERS)
    assert [x.text for x in found] == [ANSWERS[i] for i in whole.argmax(-1)]
    np.testing.assert_allclose([x.score for x in found], whole.max(-1), atol=1e-5)
    for k in (1, 2):
        few = vqa.answer(FILES[:5], QUESTIONS, ANSWERS, k=k)
        kept = np.argsort(-first, axis=-1, kind="stable")[:, :k]
        best = [row[whole[number, row].argmax()] for number, row in enumerate(kept)]
        assert [x.text for x in few] == [ANSWERS[i] for i in best]
    one = vqa.answer(FILES[:5], QUESTIONS, ANSWERS, k=1)
    assert [x.text for x in one] != [x.text for x in found]
