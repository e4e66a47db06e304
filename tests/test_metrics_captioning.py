"""Caption metrics: values worked by hand, what counts as a word, and silence on stdout."""

import math
import sys

import pytest

from blip_jax.metrics.captioning import caption_scores
from blip_jax.runtime.errors import UserError

pytest.importorskip("pycocoevalcap")
REFERENCES = [["a red circle above a blue square"], ["two green stars on a white ground"]]


def test_perfect_captions_and_silence(capsys):
    found = caption_scores([texts[0] for texts in REFERENCES], REFERENCES)
    assert found["bleu4"] == pytest.approx(100, abs=1e-4)
    assert found["rouge_l"] == pytest.approx(100)
    assert found["cider"] == pytest.approx(1000, rel=1e-6)  # 10 x cosine 1, in percent
    assert capsys.readouterr().out == ""


def test_bleu_and_rouge_by_hand():
    # Of the 5 words all match but the last: n-grams found are 4/5, 3/4, 2/3, 1/2.
    found = caption_scores(["one two three four six"], [["one two three four five"]])
    assert found["bleu4"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, rel=1e-6)
    assert found["rouge_l"] == pytest.approx(80)  # precision = recall = 4/5


def test_case_and_punctuation_do_not_count():
    loud = ['A "red" circle, above a blue square!', "two green stars; on a white ground?"]
    assert caption_scores(loud, REFERENCES) == caption_scores(
        [texts[0] for texts in REFERENCES], REFERENCES
    )


def test_an_apostrophe_inside_a_word_stays():
    same = caption_scores(["the dog's red ball"], [["the dog's red ball"]])
    other = caption_scores(["the dogs red ball"], [["the dog's red ball"]])
    assert same["rouge_l"] == pytest.approx(100)
    assert other["rouge_l"] == pytest.approx(75)


def test_long_captions_are_not_cut():
    words = [f"w{i}" for i in range(40)]
    changed = " ".join([*words[:35], "x", "x", "x", "x", "x"])
    found = caption_scores([changed], [[" ".join(words)]])
    assert found["rouge_l"] == pytest.approx(100 * 35 / 40)


def test_empty_captions_score_nothing():
    found = caption_scores(["", "!"], REFERENCES)
    assert found["bleu4"] == pytest.approx(0, abs=1e-6)
    assert found["cider"] == found["rouge_l"] == 0


def test_no_images_give_nan():
    assert all(math.isnan(value) for value in caption_scores([], []).values())


def test_bad_input_is_named():
    with pytest.raises(UserError, match="2 captions, but references of 1 images"):
        caption_scores(["a", "b"], [["a"]])
    with pytest.raises(UserError, match="image 1 has no reference"):
        caption_scores(["a", "b"], [["a"], ["..."]])


def test_missing_library_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(UserError, match=r"pip install blip_jax\[metrics\]"):
        caption_scores(["a"], [["a"]])


@pytest.mark.parametrize(
    ("hypotheses", "references", "named"),
    [
        (["a dog"], ["a dog"], "references of image 0 are 'a dog'; give a list of texts"),
        (["a"], "a", "references of image 0 are 'a'; give a list"),
        (["a", "b"], [["a"], "b"], "references of image 1 are 'b'"),
        (["a"], [[None]], r"references of image 0 are \[None\]"),
        ("a", [["a"]], "hypotheses must be a list of texts"),
        ([None], [["a"]], "hypotheses must be a list of texts"),
    ],
)
def test_a_string_where_a_list_belongs_is_refused(hypotheses, references, named):
    with pytest.raises(UserError, match=named):
        caption_scores(hypotheses, references)
