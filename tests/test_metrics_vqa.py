"""VQA's soft accuracy: values of the official tool on hostile answers; exact match; submission."""

import math

import pytest

from blip_jax.metrics import vqa
from blip_jax.runtime.errors import UserError

# Answers and what processPunctuation and processDigitArticle of the official tool make of them.
NORMALIZED = [
    ("The Two cats.", "2 cats"),
    ("a.m.", "am"),
    ("U.S.A.", "usa"),
    ("3.5", "3.5"),
    ("5.", "5"),
    (".5", ".5"),
    ("1.2.", "1.2"),
    ("x.y", "xy"),
    ("." * 34 + "x", "..x"),  # 32 periods at most
    ("1,000", "1000"),
    ("1,0-2/3", "1023"),  # a comma between digits joins everything
    ("٣,٤", "٣ ٤"),  # but only between ASCII digits
    ("red, white", "red white"),
    ("red,white", "red white"),
    ("black/white", "black white"),
    ("t-shirt", "t shirt"),
    ("t-shirt - blue", "tshirt blue"),  # one dash beside a space joins at all dashes
    ("(left) side", "left side"),
    ("what?!", "what"),
    ("who`s", "who s"),
    ("none", "0"),
    ("Ten.", "10"),
    ("one-two", "1 2"),
    ("the a an", ""),
    ("an-apple", "apple"),
    ("a_b", "b"),
    ("10 oclock", "10 o'clock"),
    ("Dont", "don't"),
    ("couldn'tve", "couldn't've"),
    ("couldntve", "couldntve"),
    ("yall'll", "y'all'll"),
    ("somebody'd", "somebodyd"),
    ("twas", "'twas"),
    ("its", "its"),
    ("$5 & 50%", "$5 & 50%"),
    ("it's 5:00", "it's 5:00"),
    ("", ""),
]
# Answer, annotations with their numbers, and the official tool's accuracy.
ACCURACIES = [
    ("yes", {"yes": 10}, 1.0),
    ("Yes", {"yes": 10}, 0.0),  # nothing is normalised where all annotators agree
    ("Yes", {"yes": 9, "no": 1}, 1.0),
    ("2", {"two": 10}, 0.0),
    ("2", {"two": 3, "2": 3, "Two.": 4}, 1.0),
    ("x y", {"x\ny": 10}, 1.0),
    ("\tnet\n", {"net\n": 10}, 1.0),
    ("net", {"racket": 10}, 0.0),
    ("net", {"net": 1, "racket": 9}, 0.3),
    ("net", {"net": 2, "racket": 8}, 0.6),
    ("net", {"net": 3, "racket": 7}, 0.9),
    ("net", {"net": 4, "racket": 6}, 1.0),
    ("the net", {"net": 1, "a net": 1, "The net.": 1, "racket": 7}, 0.9),
    ("black white", {"black/white": 2, "black and white": 8}, 0.6),
    ("1000", {"1,000": 3, "1000": 1, "many": 6}, 1.0),
    ("0", {"none": 2, "0": 1, "zero": 1, "1": 6}, 1.0),
    ("don't", {"dont": 3, "no": 7}, 0.9),
    ("", {"the": 2, "a": 1, "x": 7}, 0.9),
    ("net", {"net": 2, "bat": 3}, 0.5333333333333333),
    ("net", {"net": 12}, 1.0),
]


def annotations(counts):
    return [text for text, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(("text", "normalized"), NORMALIZED)
def test_answers_are_normalized_as_by_the_official_tool(text, normalized):
    assert vqa.normalize_answer(text) == normalized


@pytest.mark.parametrize(("answer", "given", "accuracy"), ACCURACIES)
def test_soft_accuracy_is_the_official_tools(answer, given, accuracy):
    assert vqa.soft_accuracy(answer, annotations(given)) == accuracy


def test_few_annotators_can_give_the_full_score():
    assert vqa.soft_accuracy("a", ["a"]) == 1 and vqa.soft_accuracy("b", ["a"]) == 0
    assert vqa.soft_accuracy("net", ["net", "net"]) == 1
    assert vqa.soft_accuracy("net", ["net", "bat"]) == 0.5
    assert vqa.soft_accuracy("net", ["net", "net", "bat"]) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert math.isnan(vqa.soft_accuracy("net", []))


def test_accuracy_by_type_and_its_standard_error():
    given = [{"yes": 10}, {"2": 1, "3": 9}, {"net": 10}, {}]
    found = vqa.vqa_accuracy(
        ["yes", "2", "bat", "?"],
        [annotations(counts) for counts in given],
        ["yes/no", "number", "", "other"],
    )
    assert list(found) == ["accuracy", "accuracy/number", "accuracy/other", "accuracy/yes-no"]
    # 100, 30 and 0 percent: mean 130/3; the fourth question has no annotation.
    assert found["accuracy"] == pytest.approx(130 / 3) and found["accuracy"].n == 3
    spread = math.sqrt(sum((x - 130 / 3) ** 2 for x in (100, 30, 0)) / 2)
    assert found["accuracy"].standard_error == pytest.approx(spread / math.sqrt(3))
    assert (found["accuracy/yes-no"], found["accuracy/number"]) == (100, pytest.approx(30))
    assert math.isnan(found["accuracy/other"]) and found["accuracy/other"].n == 0


def test_exact_match():
    found = vqa.exact_match(["Man", "dog ", "cats", "x"], [["man"], ["dog", "cat"], ["cat"], []])
    assert found["accuracy"] == pytest.approx(200 / 3) and found["accuracy"].n == 3


def test_the_submission_has_integer_ids():
    found = vqa.submission(["262148000", 5], ["net", "2"])
    assert found == [
        {"question_id": 262148000, "answer": "net"},
        {"question_id": 5, "answer": "2"},
    ]


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (vqa.submission, (["q1"], ["a"]), "'q1' is not an integer"),
        (vqa.submission, ([1, "1"], ["a", "b"]), "question 1 has two answers"),
        (vqa.submission, ([1], []), "1 question_ids, 0 answers"),
        (vqa.vqa_accuracy, (["a"], []), "1 answers, 0 annotations"),
        (vqa.vqa_accuracy, (["a"], ["a"]), "give a list, one an annotator"),
        (vqa.exact_match, (["a"], ["a"]), "give a list of right answers"),
    ],
)
def test_bad_input_is_named(function, arguments, named):
    with pytest.raises(UserError, match=named):
        function(*arguments)
