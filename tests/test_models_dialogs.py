"""`Model.rank_dialog`: its scores, the kinds of its arguments, and what it refuses."""

import jax
import numpy as np
import pytest
import tiny
import tiny_dataset

from blip_jax import nn
from blip_jax.data.dialog import DialogRound, encode_rounds
from blip_jax.data.images import normalize
from blip_jax.models import RankedOptions
from blip_jax.runtime.errors import UserError

HISTORY = [("is it red?", "yes"), ("is it large?", "no, it is small")]
OPTIONS = ["a circle", "a red square", "nothing", "two", "left"]


@pytest.fixture(scope="module")
def model(world):
    return tiny_dataset.trained(world, 3, model_type="dialog")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, tiny.IMAGE, tiny.IMAGE, 3), dtype=np.uint8)


def expected(model, image, caption, history, question, options):
    """Scores by the network itself; all texts are padded to the greatest length."""
    network = nn.network(model.config, "dialog")
    row = DialogRound(caption, tuple(f"{q} {a}" for q, a in history), question, tuple(options))
    ids, mask = encode_rounds(model.tokenizer, [row], len(options), model.max_length)

    @jax.jit
    def score(params, pixels, ids, mask):
        def apply(*args, method):
            return network.apply({"params": params}, *args, method=method)

        tokens = apply(pixels, method="encode_image")
        context = apply(tokens, "encoder", method="image_context")
        logits = apply(ids, mask, context, method="itm_logits")
        return logits[:, 1] - logits[:, 0]

    return np.asarray(score(model.params, normalize(image[None]), ids[0], mask[0]))


def test_one_question(model, images):
    (found,) = model.rank_dialog(images[0], "A red thing.", HISTORY, "what is it?", OPTIONS)
    want = expected(model, images[0], "a red thing", HISTORY, "what is it?", OPTIONS)
    np.testing.assert_allclose(found.scores, want, rtol=1e-4, atol=1e-5)
    assert found.options == tuple(OPTIONS)
    assert str(found) == OPTIONS[int(np.argmax(want))]
    assert found.order.tolist() == np.argsort(want)[::-1].tolist()
    assert repr(found) == f"RankedOptions({str(found)!r} of 5)"


def test_several_questions_are_each_as_alone(model, images):
    histories, questions = [[], HISTORY[:1], HISTORY], ["what is it?", "how many?", "where?"]
    options = [OPTIONS, OPTIONS[:2], OPTIONS[1:]]
    captions = ["a square", "", "two circles"]
    together = model.rank_dialog(images, captions, histories, questions, options, batch_size=2)
    for row in range(3):
        (alone,) = model.rank_dialog(
            images[row], captions[row], histories[row], questions[row], options[row]
        )
        np.testing.assert_allclose(together[row].scores, alone.scores, rtol=1e-4, atol=1e-5)
        assert together[row].options == tuple(options[row])


@pytest.mark.parametrize(
    ("captions", "history", "questions", "options"),
    [
        ("a", [], ["what?", "where?"], OPTIONS),
        (["a", "a"], [[], []], ["what?", "where?"], [OPTIONS, OPTIONS]),
        ("a", HISTORY, ["what?", "where?"], [OPTIONS]),
        ("a", [HISTORY], ["what?", "where?"], OPTIONS),
        ("a", HISTORY, "what?", OPTIONS),
        ("a", [list(pair) for pair in HISTORY], "what?", tuple(OPTIONS)),
    ],
)
def test_what_is_given_once_is_for_all(model, images, captions, history, questions, options):
    found = model.rank_dialog(images[:2], captions, history, questions, options)
    assert [type(x) for x in found] == [RankedOptions] * 2
    no_history = history in ([], [[], []])
    rounds = [] if no_history else HISTORY
    asked = [questions] * 2 if isinstance(questions, str) else questions
    for image, question, row in zip(images, asked, found, strict=False):
        (alone,) = model.rank_dialog(image, "a", rounds, question, OPTIONS)
        np.testing.assert_allclose(row.scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_an_unreadable_image_is_none(model, images):
    with pytest.warns(UserWarning, match="image number 1"):
        found = model.rank_dialog([images[0], b"none"], "a", [], "what?", OPTIONS, on_error="skip")
    assert found[1] is None and len(found[0].scores) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"options": "yes"},
            r"options is 'yes' \(str\); give a list of strings or",
        ),
        ({"options": []}, "no options; give at least one"),
        ({"options": [["a"], []], "questions": ["x", "y"]}, "no options; give at least one"),
        ({"options": ["a", 3]}, r"options\[1\] is 3 \(int\); give a string or a list of"),
        (
            {"history": ["yes"]},
            r"history\[0\] is 'yes' \(str\); give a pair of strings",
        ),
        (
            {"history": [("a", "b", "c")]},
            r"history\[0\] is \('a', 'b', 'c'\) \(tuple\); give",
        ),
        ({"history": 5}, r"history is 5 \(int\); give a list of pairs of strings"),
        (
            {"questions": ["x", "y", "z"], "options": [["a"], ["b"]]},
            "3 questions and 2 option lists; give one option list for all",
        ),
        ({"questions": ["x", "y"], "captions": ["a"] * 3}, "3 captions and 2 questions"),
        ({"images": [np.zeros((16, 16, 3), np.uint8)] * 3, "questions": ["x", "y"]}, "3 images"),
    ],
)
def test_what_does_not_go_together_is_refused(model, images, changes, message):
    given = {"images": images[0], "captions": "a", "history": [], "questions": "x",
             "options": ["a", "b"]}  # fmt: skip
    with pytest.raises(UserError, match=message):
        model.rank_dialog(**given | changes)


def test_another_model_cannot(world, images):
    model = tiny_dataset.trained(world, model_type="features")
    with pytest.raises(UserError, match="a features model cannot rank dialog; load a dialog model"):
        model.rank_dialog(images[0], "a", [], "what?", OPTIONS)
