"""Captions: by other ways, in other batches, of other forms of an image."""

import io

import jax
import network_calls
import numpy as np
import pytest
import tiny_dataset
from network_calls import FILES, PIXELS
from PIL import Image

from blip_jax.decoding import Decoding
from blip_jax.models import Caption

SHORT = {"max_length": 12, "min_length": 3}
DRAW = {"top_p": 0.95, "max_length": 12}


# Captions


def texts(captions):
    """Texts of captions, or of lists of them."""
    return [texts(row) if isinstance(row, list) else str(row) for row in captions]


def test_a_caption_reads_as_its_text(model):
    captioner = model("captioner")
    captions = captioner.caption(FILES[:5], **SHORT)
    assert len(captions) == 5 and len(set(texts(captions))) > 1
    assert all(isinstance(caption, Caption) and caption.text for caption in captions)
    assert texts(captioner.caption(FILES[0], **SHORT)) == texts(captions[:1])
    assert repr(captions[0]) == f"Caption({captions[0].text!r}, score={captions[0].score:.4g})"


def test_several_captions_and_their_scores(model):
    captioner = model("captioner")
    scored = captioner.captions(FILES[:5], num_captions=3, **SHORT)
    best = captioner.caption(FILES[:5], **SHORT)
    assert texts(best) == [row[0].text for row in scored]
    assert texts(captioner.caption(FILES[:5], num_captions=3, **SHORT)) == texts(best)
    end = captioner.tokenizer.ids.sep
    for row in scored:
        assert len({caption.text for caption in row}) > 1
        assert [x.score for x in row] == sorted((x.score for x in row), reverse=True)
        for caption in row:
            assert captioner.tokenizer.decode([caption.tokens]) == [caption.text]
            assert len(caption.tokens) == len(caption.log_probs) <= 11
            # [DEC] counts, and the end token does not.
            length = 1 + len(caption.tokens) - (caption.tokens[-1] == end)
            wanted = caption.log_probs.sum() / length
            np.testing.assert_allclose(caption.score, wanted, rtol=1e-5)


def test_one_beam_is_greedy_is_the_likeliest_token_each_time(model):
    captioner = model("captioner")
    one = captioner.caption(FILES[:5], num_beams=1, **SHORT)
    options = Decoding(method="greedy", repetition_penalty=1.0, **SHORT)
    assert texts(one) == texts(captioner.caption(FILES[:5], options))
    # By hand, on one device and without a cache.
    special, context = (
        captioner.tokenizer.ids,
        network_calls.context_of(captioner, PIXELS[:5], "decoder"),
    )
    ids = np.full((5, 12), special.pad, np.int32)
    ids[:, 0] = special.dec
    logp = np.zeros((5, 12))
    for at in range(1, 12):
        logits = network_calls.call(captioner, "lm_logits", ids, np.ones(ids.shape, bool), context)[
            :, at - 1
        ]
        allowed = np.array(logits)
        if at < SHORT["min_length"]:
            allowed[:, special.sep] = -np.inf
        ids[:, at] = allowed.argmax(-1)
        logp[:, at] = np.asarray(jax.nn.log_softmax(logits))[np.arange(5), ids[:, at]]
    for row, caption in enumerate(one):
        end = len(caption.tokens)
        assert caption.tokens.tolist() == ids[row, 1 : end + 1].tolist()
        assert end == 11 or caption.tokens[-1] == special.sep
        np.testing.assert_allclose(caption.log_probs, logp[row, 1 : end + 1], atol=1e-5)


@pytest.mark.parametrize("options", [SHORT, DRAW], ids=["beam", "drawn"])
def test_a_prompt_an_image_is_each_prompt_alone(model, options):
    captioner = model("captioner")
    prompts = ["a picture of ", "", "the large red"]
    each = captioner.caption(FILES[:3], prompt=prompts, **options)
    for row, prompt in enumerate(prompts):
        alone = captioner.caption(FILES[:3], prompt=prompt, **options)[row]
        assert each[row].tokens.tolist() == alone.tokens.tolist()
        np.testing.assert_allclose(each[row].score, alone.score, atol=1e-5)
        assert not (prompt and each[row].text.startswith(prompt))


def test_the_models_own_prompt_is_the_default(model, world):
    captioner = model("captioner")
    own = tiny_dataset.trained(world, 2, "a picture of ", "captioner")
    wanted = texts(captioner.caption(FILES[:3], prompt="a picture of ", **SHORT))
    plain = texts(captioner.caption(FILES[:3], **SHORT))
    assert texts(own.caption(FILES[:3], **SHORT)) == wanted != plain
    assert texts(own.caption(FILES[:3], prompt="", **SHORT)) == plain


def test_new_tokens_are_counted_behind_each_prompt(model):
    prompts = ["a picture of ", "", "the large red"]
    found = model("captioner").caption(
        FILES[:3], prompt=prompts, num_beams=1, min_length=24, max_new_tokens=4
    )
    assert [len(caption.tokens) for caption in found] == [4, 4, 4]


@pytest.mark.parametrize("options", [SHORT, DRAW], ids=["beam", "drawn"])
def test_batches_do_not_matter(model, options):
    captioner = model("captioner")
    small, large = (
        captioner.caption(FILES, batch_size=size, **options)
        for size in (1, 32)  # 8 and 16 rows: two batches, and one
    )
    assert [x.text for x in small] == [x.text for x in large]
    np.testing.assert_allclose([x.score for x in small], [x.score for x in large], atol=1e-5)


def test_drawing_follows_the_seed(model):
    captioner = model("captioner")
    first, again, other = (texts(captioner.caption(FILES, seed=seed, **DRAW)) for seed in (0, 0, 1))
    assert first == again
    assert texts(captioner.caption(FILES[4:], start_index=4, **DRAW)) == first[4:]
    assert sum(x != y for x, y in zip(first, other)) > 5
    several = texts(captioner.captions(FILES, num_captions=3, **DRAW))
    assert [row[0] for row in several] == first
    assert sum(len(set(row)) == 3 for row in several) > 5
    # The same image twice is sampled twice.
    assert len(set(texts(captioner.caption(FILES[:1] * 8, **DRAW)))) > 2


def test_top_k_of_1_is_the_likeliest(model):
    captioner = model("captioner")
    greedy = captioner.caption(FILES[:5], num_beams=1, repetition_penalty=1.1, **SHORT)
    assert texts(captioner.caption(FILES[:5], top_k=1, **SHORT)) == texts(greedy)


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
    array = np.asarray(image)
    forms = [
        image, array, png(image), str(path), path, Image.open(path), io.BytesIO(png(image)),
        jax.numpy.asarray(array), np.float32(array) / 255,
    ]  # fmt: skip
    if array.ndim == 3:
        forms.append(np.moveaxis(array, -1, 0))
    else:
        forms.append(array[..., None])
    found = retrieval.encode_image(forms)
    wanted = image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    tokens = network_calls.tokens_of(retrieval, [np.asarray(wanted)])
    features = network_calls.call(retrieval, "image_features", tokens)
    np.testing.assert_allclose(found, np.repeat(features, len(forms), axis=0), atol=1e-5)
    np.testing.assert_array_equal(found, np.repeat(found[:1], len(forms), axis=0))


def test_one_image_and_an_array_of_images(model):
    retrieval = model("retrieval")
    found = retrieval.encode_image(np.stack(PIXELS[:3]))
    np.testing.assert_array_equal(found, retrieval.encode_image(tuple(FILES[:3])))
    for one in (FILES[0], PIXELS[0]):
        np.testing.assert_array_equal(retrieval.encode_image(one), found[:1])
