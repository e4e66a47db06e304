"""What a model's methods give: by other ways, in other batches, of other forms of an image."""

import functools
import io

import jax
import jax.numpy as jnp
import minute
import numpy as np
import pytest
from PIL import Image

from blip_jax import models
from blip_jax.data.builders.shapes import make_record
from blip_jax.data.images import decode, normalize
from blip_jax.decoding import Decoding, log_likelihood
from blip_jax.inference import Caption

FILES = [make_record(row, "test", minute.HUMAN)["image"] for row in range(10)]
PIXELS = [decode(file) for file in FILES]
TEXTS = [make_record(row, "test", minute.HUMAN)["texts"][0] for row in range(10)]
SHORT = {"max_length": 12, "min_length": 3}
DRAW = {"top_p": 0.95, "max_length": 12}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return minute.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world):
    """Of a kind, made once."""
    return functools.cache(lambda kind, seed=2: minute.trained(world, seed, "", kind))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="role")
def run(config, kind, method, params, *args, **role):
    return models.network(config, kind).apply({"params": params}, *args, method=method, **role)


def direct(model, method, *args, **role):
    """A method of the network, on one device."""
    params = jax.tree.map(np.asarray, model.params)
    return run(model.config, model.kind, method, params, *args, **role)


def tokens_of(model, pixels=PIXELS):
    return direct(model, "encode_image", normalize(np.stack(pixels)))


def context_of(model, pixels, role):
    return direct(model, "context", tokens_of(model, pixels), role=role)


# Captions


def test_a_caption_is_a_string_an_image(model):
    captioner = model("captioner")
    texts = captioner.caption(FILES[:5], **SHORT)
    assert len(texts) == 5 and len(set(texts)) > 1
    assert all(isinstance(text, str) and text for text in texts)
    assert captioner.caption(FILES[0], **SHORT) == texts[:1]


def test_several_captions_and_their_scores(model):
    captioner = model("captioner")
    scored = captioner.caption(FILES[:5], num_captions=3, return_scores=True, **SHORT)
    texts = captioner.caption(FILES[:5], num_captions=3, **SHORT)
    assert texts == [[caption.text for caption in row] for row in scored]
    best = captioner.caption(FILES[:5], return_scores=True, **SHORT)
    assert all(isinstance(caption, Caption) for caption in best)
    assert [caption.text for caption in best] == [row[0] for row in texts]
    end = captioner.tokenizer.sep
    for row in scored:
        assert len({caption.text for caption in row}) > 1
        assert [x.score for x in row] == sorted((x.score for x in row), reverse=True)
        for caption in row:
            assert captioner.tokenizer.decode([caption.tokens]) == [caption.text]
            assert len(caption.tokens) == len(caption.log_probabilities) <= 11
            # [DEC] counts, and the end token does not.
            length = 1 + len(caption.tokens) - (caption.tokens[-1] == end)
            wanted = caption.log_probabilities.sum() / length
            np.testing.assert_allclose(caption.score, wanted, rtol=1e-5)


def test_one_beam_is_greedy_is_the_likeliest_token_each_time(model):
    captioner = model("captioner")
    one = captioner.caption(FILES[:5], num_beams=1, return_scores=True, **SHORT)
    options = Decoding(method="greedy", repetition_penalty=1.0, **SHORT)
    greedy = captioner.write(FILES[:5], options)
    assert [x.text for x in one] == [x.text for (x,) in greedy]
    # By hand, on one device and without a cache.
    special, context = captioner.tokenizer, context_of(captioner, PIXELS[:5], "decoder")
    ids = np.full((5, 12), special.pad, np.int32)
    ids[:, 0] = special.dec
    logp = np.zeros((5, 12))
    for at in range(1, 12):
        logits = direct(captioner, "lm_logits", ids, np.ones(ids.shape, bool), context)[:, at - 1]
        allowed = np.array(logits)
        if at < SHORT["min_length"]:
            allowed[:, special.sep] = -np.inf
        ids[:, at] = allowed.argmax(-1)
        logp[:, at] = np.asarray(jax.nn.log_softmax(logits))[np.arange(5), ids[:, at]]
    for row, caption in enumerate(one):
        end = len(caption.tokens)
        assert caption.tokens.tolist() == ids[row, 1 : end + 1].tolist()
        assert end == 11 or caption.tokens[-1] == special.sep
        np.testing.assert_allclose(caption.log_probabilities, logp[row, 1 : end + 1], atol=1e-5)


@pytest.mark.parametrize("options", [SHORT, DRAW], ids=["beam", "drawn"])
def test_a_prompt_an_image_is_each_prompt_alone(model, options):
    captioner = model("captioner")
    prompts = ["a picture of ", "", "the large red"]
    each = captioner.caption(FILES[:3], prompt=prompts, return_scores=True, **options)
    for row, prompt in enumerate(prompts):
        alone = captioner.caption(FILES[:3], prompt=prompt, return_scores=True, **options)[row]
        assert each[row].tokens.tolist() == alone.tokens.tolist()
        np.testing.assert_allclose(each[row].score, alone.score, atol=1e-5)
        assert not (prompt and each[row].text.startswith(prompt))


def test_the_models_own_prompt_is_the_default(model, world):
    captioner = model("captioner")
    own = minute.trained(world, 2, "a picture of ", "captioner")
    wanted = captioner.caption(FILES[:3], prompt="a picture of ", **SHORT)
    assert own.caption(FILES[:3], **SHORT) == wanted
    assert own.caption(FILES[:3], prompt="", **SHORT) == captioner.caption(FILES[:3], **SHORT)
    assert wanted != captioner.caption(FILES[:3], **SHORT)


def test_new_tokens_are_counted_behind_each_prompt(model):
    prompts = ["a picture of ", "", "the large red"]
    found = model("captioner").caption(
        FILES[:3], prompt=prompts, num_beams=1, min_length=24, max_new_tokens=4, return_scores=True
    )
    assert [len(caption.tokens) for caption in found] == [4, 4, 4]


@pytest.mark.parametrize("options", [SHORT, DRAW], ids=["beam", "drawn"])
def test_batches_do_not_matter(model, options):
    captioner = model("captioner")
    small, large = (
        captioner.caption(FILES, batch_size=size, return_scores=True, **options)
        for size in (1, 32)  # 8 and 16 rows: two batches, and one
    )
    assert [x.text for x in small] == [x.text for x in large]
    np.testing.assert_allclose([x.score for x in small], [x.score for x in large], atol=1e-5)


def test_drawing_follows_the_seed(model):
    captioner = model("captioner")
    first, again, other = (captioner.caption(FILES, seed=seed, **DRAW) for seed in (0, 0, 1))
    assert first == again
    assert captioner.caption(FILES[4:], first=4, **DRAW) == first[4:]
    assert sum(x != y for x, y in zip(first, other)) > 5
    several = captioner.caption(FILES, num_captions=3, **DRAW)
    assert [row[0] for row in several] == first
    assert sum(len(set(row)) == 3 for row in several) > 5
    # The same picture twice is drawn twice.
    assert len(set(captioner.caption(FILES[:1] * 8, **DRAW))) > 2


def test_top_k_of_1_is_the_likeliest(model):
    captioner = model("captioner")
    greedy = captioner.caption(FILES[:5], num_beams=1, repetition_penalty=1.1, **SHORT)
    assert captioner.caption(FILES[:5], top_k=1, **SHORT) == greedy


# Images


@pytest.fixture(scope="module")
def picture():
    """uint8 [24, 18, 3], to be resized."""
    return np.random.default_rng(0).integers(0, 256, (24, 18, 3)).astype(np.uint8)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_all_forms_of_an_image_are_the_same(model, picture, mode, tmp_path):
    retrieval = model("retrieval")
    image = Image.fromarray(picture).convert(mode)
    if mode == "RGBA":
        image.putalpha(77)
    (tmp_path / "image.png").write_bytes(png(image))
    path = tmp_path / "image.png"
    forms = [image, np.asarray(image), png(image), str(path), path, Image.open(path)]
    found = retrieval.encode_image(forms)
    wanted = image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    tokens = tokens_of(retrieval, [np.asarray(wanted)])
    features = direct(retrieval, "image_features", tokens)
    np.testing.assert_allclose(found, np.repeat(features, 6, axis=0), atol=1e-5)
    np.testing.assert_array_equal(found, np.repeat(found[:1], 6, axis=0))


def test_one_image_and_an_array_of_images(model):
    retrieval = model("retrieval")
    found = retrieval.encode_image(np.stack(PIXELS[:3]))
    np.testing.assert_array_equal(found, retrieval.encode_image(tuple(FILES[:3])))
    for one in (FILES[0], PIXELS[0]):
        np.testing.assert_array_equal(retrieval.encode_image(one), found[:1])


# Matching


def test_match_is_what_the_network_gives(model):
    retrieval = model("retrieval")
    found = retrieval.match(FILES, TEXTS)
    ids, mask = retrieval.tokenizer.encode(TEXTS, 24)
    context = context_of(retrieval, PIXELS, "encoder")
    logits = direct(retrieval, "itm_logits", ids, mask, context)
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
        images, direct(retrieval, "image_features", tokens_of(retrieval)), atol=1e-5
    )
    np.testing.assert_allclose(texts, direct(retrieval, "text_features", ids, mask), atol=1e-5)
    assert np.std(found.probability) > 1e-3 and np.std(found.cosine) > 1e-3


def test_several_texts_an_image(model):
    retrieval = model("retrieval")
    nested = [[TEXTS[row], TEXTS[row - 1], "a dog"] for row in range(5)]
    found = retrieval.match(FILES[:5], nested)
    assert found.probability.shape == found.cosine.shape == (5, 3)
    assert found.logits.shape == (5, 3, 2)
    for column in range(3):
        pairs = retrieval.match(FILES[:5], [row[column] for row in nested])
        for many, one in zip(found, pairs):
            np.testing.assert_allclose(many[:, column], one, atol=1e-5)


def test_a_texts_neighbours_do_not_matter(model):
    """A long text gives its neighbours more pads."""
    retrieval = model("retrieval")
    long = " ".join(TEXTS[:3])
    ids, mask = retrieval.tokenizer.encode([long, TEXTS[1]], 24)
    assert mask.sum(-1)[0] > 16 >= mask.sum(-1)[1]
    alone = retrieval.match(FILES[1], TEXTS[1])
    beside = retrieval.match(FILES[:2], [long, TEXTS[1]])
    for one, two in zip(alone, beside):
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
    wanted = direct(aligned, "image_features", tokens_of(aligned))
    np.testing.assert_allclose(images, wanted, atol=1e-5)
    np.testing.assert_allclose(texts, direct(aligned, "text_features", ids, mask), atol=1e-5)
    few = aligned.encode_text(TEXTS, batch_size=8)
    np.testing.assert_allclose(few, texts, atol=1e-5)


# Hidden states


@pytest.mark.parametrize("kind", ["features", "pretrain"])
def test_states_of_images_of_texts_and_of_both(model, kind):
    features = model(kind)
    ids, mask = features.tokenizer.encode(TEXTS, 24)
    images = features.states(FILES)
    assert images.shape == (10, 5, 16)
    np.testing.assert_allclose(images, tokens_of(features), atol=1e-5)
    texts = features.states(texts=TEXTS)
    assert texts.shape[0] == 10 and texts.shape[2] == 16
    length = texts.shape[1]
    wanted = np.asarray(direct(features, "encode_text", ids, mask))[:, :length]
    real = mask[:, :length]
    np.testing.assert_allclose(texts[real], wanted[real], atol=1e-5)
    both = features.states(FILES, TEXTS)
    context = context_of(features, PIXELS, "encoder")
    wanted = np.asarray(direct(features, "ground", ids, mask, context))[:, :length]
    np.testing.assert_allclose(both[real], wanted[real], atol=1e-5)
    assert np.abs(both - texts)[real].max() > 0.1
    np.testing.assert_allclose(features.states(FILES[0], TEXTS[0])[0], both[0], atol=1e-5)


# Two images


def test_judging_is_what_the_network_gives(model):
    nlvr = model("nlvr")
    found = nlvr.judge(FILES, FILES[::-1], TEXTS)
    ids, mask = nlvr.tokenizer.encode(TEXTS, 24)
    contexts = direct(nlvr, "contexts", tokens_of(nlvr), tokens_of(nlvr, PIXELS[::-1]))
    logits = np.asarray(direct(nlvr, "logits", ids, mask, contexts))
    odds = np.exp(logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose(found, odds / (1 + odds), atol=1e-5)
    assert found.shape == (10,) and np.std(found) > 1e-3
    few = nlvr.judge(FILES, FILES[::-1], TEXTS, batch_size=8)
    np.testing.assert_allclose(few, found, atol=1e-5)
    one = nlvr.judge(FILES[0], FILES[9], TEXTS[0])
    np.testing.assert_allclose(one, found[:1], atol=1e-5)
    assert np.abs(nlvr.judge(FILES[::-1], FILES, TEXTS) - found).max() > 1e-3


# Questions

QUESTIONS = ["what colour is the circle?", "is there a square", "how many are red", "where", "why"]
ANSWERS = ["red", "a large blue square", "two", "yes", "no", "left of the circle"]


def test_answers_are_written(model):
    vqa = model("vqa")
    found = vqa.answer(FILES, QUESTIONS * 2, return_scores=True)
    texts = vqa.answer(FILES, QUESTIONS * 2, batch_size=8)
    assert [text for text, _ in found] == texts and all(isinstance(x, str) for x in texts)
    assert len(set(texts)) > 1 and all(score < 0 for _, score in found)
    assert vqa.answer(FILES[3], QUESTIONS[3]) == texts[3:4]
    # One beam begins with the likeliest token, by the network on one device.
    greedy = vqa.answer(FILES[:5], QUESTIONS, num_beams=1)
    ids, mask = encoded(vqa, QUESTIONS)
    assert mask.sum(-1).min() < mask.sum(-1).max()
    states = direct(vqa, "question_states", tokens_of(vqa, PIXELS[:5]), ids, mask)
    context = direct(vqa, "context", states, mask)
    logits = direct(vqa, "lm_logits", np.zeros((5, 1), np.int32), np.ones((5, 1), bool), context)
    first = vqa.tokenizer.decode(np.asarray(logits).argmax(-1))
    assert all(text.startswith(token) for text, token in zip(greedy, first)) and all(first)


def encoded(vqa, texts):
    """ids and mask as the model reads them."""
    return vqa.tokenizer.encode(texts, 24)


def likelihoods(vqa):
    """Log-probabilities of all answers to each question, [5, 6]; of their first tokens [5, 6]."""
    ids, mask = encoded(vqa, QUESTIONS)
    states = direct(vqa, "question_states", tokens_of(vqa, PIXELS[:5]), ids, mask)
    context = direct(vqa, "context", states, mask)
    answers = [np.tile(x, (5, 1)) for x in encoded(vqa, ANSWERS)]
    rows = jnp.repeat(jnp.arange(5), 6)[None]
    logits = direct(vqa, "lm_logits", *answers, context, rows)
    first = np.asarray(logits)[np.arange(30), 0, answers[0][:, 1]]
    return np.reshape(log_likelihood(logits, *answers), (5, 6)), first.reshape(5, 6)


def test_answers_are_chosen_by_their_likelihood(model):
    vqa = model("vqa")
    whole, first = likelihoods(vqa)
    found = vqa.answer(FILES[:5], QUESTIONS, ANSWERS, return_scores=True)
    assert [text for text, _ in found] == [ANSWERS[i] for i in whole.argmax(-1)]
    np.testing.assert_allclose([score for _, score in found], whole.max(-1), atol=1e-5)
    for k in (1, 2):
        few = vqa.answer(FILES[:5], QUESTIONS, ANSWERS, k=k)
        kept = np.argsort(-first, axis=-1, kind="stable")[:, :k]
        best = [row[whole[number, row].argmax()] for number, row in enumerate(kept)]
        assert few == [ANSWERS[i] for i in best]
    assert vqa.answer(FILES[:5], QUESTIONS, ANSWERS, k=1) != [text for text, _ in found]
