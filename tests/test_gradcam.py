"""GradCAM of models: maps against finite differences, words, pictures, and what is refused."""

import base64
import dataclasses
import io
import re

import jax.numpy as jnp
import network_calls
import numpy as np
import pytest
from network_calls import FILES, PIXELS, TEXTS, refused
from PIL import Image

from blip_jax.data.dialog import DialogRound
from blip_jax.models import gradcam, gradcam_maps
from blip_jax.models.results import heat_picture

SIDE = 2  # patches of a tiny image, in each direction


def said(text, result) -> bool:
    """Whether the words are those of a text, which may be cut at the model's length."""
    return len(result.words) > 3 and text.replace(" ", "").startswith("".join(result.words))


def test_match_maps_are_the_effect_of_each_attention(model):
    """A map is the positive part of the logit's slope by the gate, here by finite differences."""
    retrieval = model("retrieval")
    found = retrieval.gradcam(FILES[:2], TEXTS[:2], layer=0)
    ids, mask = retrieval.tokenizer.encode(TEXTS[:2], 24)
    context = network_calls.context_of(retrieval, PIXELS[:2], "encoder")
    tokens = network_calls.tokens_of(retrieval, PIXELS[:2])
    ones = gradcam_maps.ones(retrieval, tokens, ids)

    def logit(place, step):
        gate = gradcam_maps.gates(retrieval, ones.at[(0, *place)].add(step), 0)
        gated = context._replace(gate=gate)
        return float(network_calls.call(retrieval, "itm_logits", ids, mask, gated)[0, 1])

    maps = found[0].token_maps.reshape(-1, SIDE * SIDE)
    (token, patch), step = np.unravel_index(maps.argmax(), maps.shape), 0.1
    heads = range(ones.shape[1])
    slopes = [
        (logit((h, token, 1 + patch), step) - logit((h, token, 1 + patch), -step)) / (2 * step)
        for h in heads
    ]
    np.testing.assert_allclose(
        maps[token, patch], np.maximum(slopes, 0).mean(), rtol=2e-2, atol=1e-6
    )
    match = retrieval.match(FILES[:2], TEXTS[:2])
    np.testing.assert_allclose([x.score for x in found], match.probability, atol=1e-5)
    for result, text in zip(found, TEXTS, strict=False):
        assert said(text, result)
        assert result.maps.shape == (len(result.words), SIDE, SIDE) and result.maps.max() > 0
        assert result.tokens[-1] == "[SEP]" and result.maps.dtype == np.float32


def test_a_map_does_not_depend_on_the_batch(model):
    retrieval = model("retrieval")
    together = retrieval.gradcam(FILES[:3], [TEXTS[0], " ".join(TEXTS[:2]), TEXTS[2]])
    alone = retrieval.gradcam(FILES[2], TEXTS[2])
    np.testing.assert_allclose(together[2].token_maps, alone[0].token_maps, atol=1e-6)


def test_words_of_a_caption_come_after_the_prompt(world):
    import tiny_dataset

    captioner = tiny_dataset.trained(world, 2, tiny_dataset.PROMPT, "captioner")
    (found,) = captioner.gradcam(FILES[0], TEXTS[0])
    assert said(TEXTS[0], found)
    start = len(captioner.tokenizer.prompt(tiny_dataset.PROMPT))
    assert "".join(found.tokens[1:start]).replace("##", "") == "apictureof"
    assert (found.token_maps[0] == 0).all() and found.maps.max() > 0
    np.testing.assert_allclose(found.mean, found.token_maps[start:-1].mean(0), rtol=1e-5)


def test_answers_are_the_models_own_or_given(model):
    vqa = model("vqa")
    question, candidates = "what is this?", ["red", "a dog"]
    own = vqa.gradcam(FILES[:2], question)
    assert [x.answer for x in own] == [x.text for x in vqa.answer(FILES[:2], question)]
    given = vqa.gradcam(FILES[0], question, answers=candidates[0])[0]
    ranked = vqa.answer(FILES[0], question, candidates=candidates[:1])[0]
    assert given.answer == "red"
    np.testing.assert_allclose(given.score, ranked.score, atol=1e-4)


def test_one_question_may_have_several_answers(model):
    vqa = model("vqa")
    found = vqa.gradcam(FILES[0], "what is this?", answers=["red", "a dog"])
    assert [x.answer for x in found] == ["red", "a dog"]
    single = vqa.gradcam(FILES[0], "what is this?", answers="a dog")[0]
    np.testing.assert_allclose(found[1].score, single.score, atol=1e-5)


def test_an_image_that_cannot_be_read_is_none(model):
    with pytest.warns(UserWarning, match="number 1"):
        found = model("retrieval").gradcam([FILES[0], b"no image"], TEXTS[:2], on_error="skip")
    assert found[0] is not None and found[1] is None


def test_the_last_layer_is_not_the_default(model):
    """There, words have no effect on ITM, which reads the first token."""
    retrieval = model("retrieval")
    last = retrieval.gradcam(FILES[0], TEXTS[0], layer=1)[0]
    assert (last.maps == 0).all() and last.token_maps[0].max() > 0
    default = retrieval.gradcam(FILES[0], TEXTS[0])[0]
    np.testing.assert_array_equal(
        default.maps, retrieval.gradcam(FILES[0], TEXTS[0], layer=0)[0].maps
    )
    assert default.maps.max() > 0


def test_maps_of_two_images_are_the_effect_of_each_attention(model):
    """As for matches: in both images, the logit's slope by the gate of the strongest patch."""
    nlvr, pairs = model("nlvr"), np.stack([PIXELS[:2], PIXELS[2:4]], axis=1)
    found = nlvr.gradcam_pictures(pairs, TEXTS[:2], "verify")
    true = nlvr.verify(FILES[:2], FILES[2:4], TEXTS[:2])
    np.testing.assert_allclose([x.score for x in found], np.maximum(true, 1 - true), atol=1e-5)
    assert found[0].maps.shape == (len(found[0].words), SIDE, 2 * SIDE)
    np.testing.assert_array_equal(found[0].image, np.concatenate(pairs[0], axis=1))
    ids, mask = nlvr.tokenizer.encode(TEXTS[:1], 24)
    tokens = [network_calls.tokens_of(nlvr, pairs[:1, side]) for side in (0, 1)]
    contexts = network_calls.call(nlvr, "image_contexts", *tokens)
    ones, truth = gradcam_maps.ones(nlvr, tokens[0], ids), int(true[0] > 0.5)

    def logit(side, place, step):
        gate = gradcam_maps.gates(nlvr, ones.at[(0, *place)].add(step), 0)
        gated = [c._replace(gate=gate if n == side else gradcam_maps.gates(nlvr, ones, 0))
                 for n, c in enumerate(contexts)]  # fmt: skip
        return float(network_calls.call(nlvr, "logits", ids, mask, tuple(gated))[0, truth])

    for side in (0, 1):
        maps = found[0].token_maps[:, :, side * SIDE : (side + 1) * SIDE].reshape(-1, SIDE**2)
        (token, patch), step = np.unravel_index(maps.argmax(), maps.shape), 0.1
        places = [(head, token, 1 + patch) for head in range(ones.shape[1])]
        slopes = [(logit(side, p, step) - logit(side, p, -step)) / (2 * step) for p in places]
        np.testing.assert_allclose(
            maps[token, patch], np.maximum(slopes, 0).mean(), rtol=2e-2, atol=1e-6
        )


@pytest.mark.parametrize(("model_type", "of"), [("retrieval", "match"), ("vqa", "answer")])
def test_each_frame_of_a_clip_has_its_part_of_the_map(model, model_type, of):
    """Equal frames share evenly what one of them alone would have."""
    loaded, answers = model(model_type), {"answers": ["red"]} if of == "answer" else {}
    clip = np.repeat([PIXELS[:1]], 3, axis=1)
    (found,) = loaded.gradcam_pictures(clip, TEXTS[:1], of, **answers)
    (alone,) = loaded.gradcam(FILES[0], TEXTS[0], of=of, **answers)
    assert found.words == alone.words and found.maps.shape[1:] == (SIDE, 3 * SIDE)
    for number in range(3):
        part = found.maps[:, :, number * SIDE : (number + 1) * SIDE]
        np.testing.assert_allclose(3 * part, alone.maps, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.score, alone.score, atol=1e-4)


def test_words_of_a_dialog_are_those_of_question_and_answer(model):
    dialog = model("dialog")
    rounds = [DialogRound("a red square", ("is it big? no",), "what colour", (answer,))
              for answer in ("red", "a blue circle")]  # fmt: skip
    found = dialog.gradcam_pictures(np.stack(PIXELS[:2]), rounds, "rank_dialog")
    assert ["".join(x.words) for x in found] == ["whatcolourred", "whatcolourabluecircle"]
    (ranked,) = dialog.rank_dialog(
        FILES[0], "a red square", [("is it big?", "no")], "what colour", ["red"]
    )
    odds = [np.log(x.score / (1 - x.score)) for x in found]
    np.testing.assert_allclose(odds[0], ranked.scores[0], atol=1e-3)
    assert found[0].maps.max() > 0 and found[0].tokens.count("[SEP]") == 3


def test_tiles():
    pictures = (1 + np.arange(6))[:, None, None] * np.ones((6, 2, 3), int)
    found = gradcam.tiled(pictures)
    assert found.shape == (4, 12) and found[::2, ::3].tolist() == [[1, 2, 3, 4], [5, 6, 1, 1]]
    assert gradcam.tiled(pictures[:2]).shape == (2, 6)


def test_pieces_are_merged():
    words, rows = gradcam.merged_words(["a", "sky", "##line", "##s", "red"])
    assert words == ["a", "skylines", "red"]
    assert rows == [slice(0, 1), slice(1, 4), slice(4, 5)]
    assert gradcam.merged_words([]) == ([], [])


def test_heat_keeps_the_positive_part_without_the_first_token():
    gradient = jnp.array([[[[9.0, 1.0, -2.0]], [[9.0, 3.0, -4.0]]]])  # two heads, one token
    np.testing.assert_array_equal(gradcam_maps.heat(gradient), [[[2.0, 0.0]]])
    frames = jnp.concatenate([gradient, 2 * gradient], axis=-1)
    np.testing.assert_array_equal(gradcam_maps.heat(frames, 2), [[[2.0, 0.0, 4.0, 0.0]]])


def test_a_picture_is_hot_where_the_map_is():
    grey = np.full((40, 60, 3), 128, np.uint8)
    picture = heat_picture(np.array([[0.0, 0.0], [0.0, 5.0]], np.float32), grey)
    pixels = np.asarray(picture).astype(int)
    assert picture.size == (60, 40)
    changed = np.abs(pixels - 128).sum(-1)
    assert changed[-5:, -5:].min() > 60 and changed[:5, :5].max() < 20
    assert (pixels[-5:, -5:, 0] > pixels[-5:, -5:, 2]).all()  # red, not blue
    np.testing.assert_array_equal(heat_picture(np.zeros((2, 2)), grey), grey)


def test_pictures_by_word_and_on_another_picture(model):
    (found,) = model("retrieval").gradcam(FILES[0], "a red square")
    assert found.picture().size == (16, 16)
    assert found.picture("red", Image.new("RGB", (50, 30))).size == (50, 30)
    assert found.picture(1).tobytes() == found.picture("red").tobytes()
    assert "no word 'blue'; the text has a, red, square" in refused(found.picture, "blue")


def test_a_notebook_shows_the_map_of_each_word(model):
    (found,) = model("retrieval").gradcam(FILES[0], "a red square")
    found = dataclasses.replace(found, words=["a", "<red>", "square"])
    shown = found._repr_html_()
    assert re.findall("<figcaption>(.*?)<", shown) == [
        "mean of all words", "a", "&lt;red&gt;", "square",
    ]  # fmt: skip
    pictures = re.findall('src="data:image/png;base64,(.*?)"', shown)
    first, *_, last = (Image.open(io.BytesIO(base64.b64decode(x))) for x in pictures)
    assert len(pictures) == 4 and first.size == last.size == (160, 160)
    assert last.tobytes() == found.picture("square").resize((160, 160)).tobytes()


def test_what_is_refused(model):
    retrieval = model("retrieval").gradcam
    assert "layer is 2; the model's are 0 to 1" in refused(retrieval, FILES[0], "a", layer=2)
    assert "cannot caption" in refused(retrieval, FILES[0], "a", of="caption")
    assert "of is 'itc' (str); give 'match', 'caption'" in refused(
        retrieval, FILES[0], "a", of="itc"
    )
    assert "texts is None" in refused(retrieval, FILES[0])
    assert "the text '...' has no word" in refused(retrieval, FILES[0], "...")
    assert "answers are given" in refused(retrieval, FILES[0], "a", answers="b")
    assert "cannot gradcam; load a pretrain" in refused(model("nlvr").gradcam, FILES[0], "a")
