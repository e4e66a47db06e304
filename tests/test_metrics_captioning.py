"""Caption metrics: values worked by hand, what counts as a word, and silence on stdout."""

import math
import sys

import numpy as np
import pytest

from blip_jax.metrics import captioning
from blip_jax.metrics.captioning import caption_scores, scores_by_domain
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


def test_standard_errors_over_images():
    # CIDEr and ROUGE-L are 0 for the second image; without it they are those of equal captions.
    found = caption_scores(["a red circle above a blue square", "x"], REFERENCES)
    assert found["rouge_l"] == pytest.approx(50) and found["rouge_l"].n == 2
    assert found["rouge_l"].standard_error == pytest.approx(50)  # of 100 and 0
    assert found["cider"].standard_error == pytest.approx(500)
    one = caption_scores(["a red circle"], REFERENCES[:1])
    assert all(value.n == 1 and value.standard_error is None for value in one.values())


def test_bleu_of_resampled_images_is_that_of_the_library(monkeypatch):
    """BLEU-4 of the sums that are resampled, for every image alone and for all together."""
    counts = {}

    def of_sums(statistics, metrics):
        counts["rows"] = np.array(statistics, float)
        return real(statistics, metrics)

    real = captioning.uncertainty.of_sums
    monkeypatch.setattr(captioning.uncertainty, "of_sums", of_sums)
    texts = ["one two three four six", "a b c d", "a b c d e f g h i j"]
    references = [["one two three four five"], ["a b c d e f g h", "a b c"], ["a b c d e x"]]
    found = caption_scores(texts, references)
    assert found["bleu4"] == pytest.approx(
        captioning._bleu4(counts["rows"].sum(0, keepdims=True))["bleu4"][0], abs=1e-5
    )
    assert 0 < found["bleu4"].standard_error < 50
    alone = captioning._bleu4(counts["rows"])["bleu4"]
    for i, (text, truth) in enumerate(zip(texts, references)):
        assert alone[i] == pytest.approx(caption_scores([text], [truth])["bleu4"], abs=1e-5)
    assert alone[0] == pytest.approx(66.874030, abs=1e-5)


def test_scores_by_domain_are_those_of_its_images_alone():
    texts = ["a red circle", "two stars", "a blue square"]
    references = [["a red circle above a blue square"], ["two green stars"], ["a square"]]
    domains = ["near-domain", "in-domain", "near-domain"]
    found = scores_by_domain(caption_scores, texts, references, domains)
    near = caption_scores([texts[0], texts[2]], [references[0], references[2]])
    assert {name: found[f"near-domain/{name}"] for name in near} == near
    assert found["near-domain/cider"].n == 2 and found["cider"].n == 3
    assert found["cider"] == caption_scores(texts, references)["cider"]
    assert len(found) == 9
    with pytest.raises(UserError, match="1 captions, but 2 domains"):
        scores_by_domain(caption_scores, ["a"], [["a"]], ["x", "y"])


def test_no_images_give_nan():
    assert all(math.isnan(value) for value in caption_scores([], []).values())


def test_bad_input_is_named():
    with pytest.raises(UserError, match="2 captions, but references of 1 images"):
        caption_scores(["a", "b"], [["a"]])
    with pytest.raises(UserError, match="image 1 has no reference"):
        caption_scores(["a", "b"], [["a"], ["..."]])


def test_missing_library_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(UserError, match=r'pip install "blip-jax\[metrics\]"'):
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
