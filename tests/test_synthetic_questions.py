"""Questions of the Shapes dataset: right by the oracle, and at chance without the image."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from synthetic_records import (
    DEMO,
    LARGE,
    SMALL,
    assert_even,
    majority_accuracy,
    records,
)

from blip_jax.data.synthetic import questions
from blip_jax.data.synthetic.answers import parse_answer, render_answer
from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.grammar import Phrase
from blip_jax.data.synthetic.question_oracle import answer_question, is_right_answer
from blip_jax.data.synthetic.scenes import Scene, World
from blip_jax.runtime.errors import UserError

SCENE = Scene(
    (
        Phrase("circle", "red", "small", "", "top", "left"),
        Phrase("square", "orange", "large", "", "top", "right"),
        Phrase("square", "red", "large", "", "bottom", "right"),
    ),
    "black",
)


def asked(kind="vqa", **settings):
    """(template, text, concepts of the answer) of all questions."""
    return [
        (question["template"], question["question"], parse_answer(question["answers"][0]))
        for record in records(kind, **settings)
        for question in record.fields["questions"]
    ]


@pytest.mark.parametrize("settings", [
    {"world": DEMO}, {"world": LARGE}, {"world": SMALL, "count": 500},
    {"world": DEMO, "questions_per_image": 3},
], ids=str)  # fmt: skip
def test_every_answer_is_right_and_of_one_concept(settings):
    ids = set()
    for record in records("vqa", **settings):
        for question in record.fields["questions"]:
            assert len(question["answers"]) == questions.NUM_ANNOTATORS
            for answer in set(question["answers"]):
                assert is_right_answer(question["question"], answer, record.scene), question
            template = questions.TEMPLATES[question["template"]]
            assert question["type"] == template.answer_type
            ids.add(question["id"])
    assert len(ids) == len(asked(**settings))


@pytest.mark.parametrize("settings", [
    {"world": DEMO}, {"world": LARGE}, {"world": DEMO, "questions_per_image": 3},
], ids=str)  # fmt: skip
def test_answers_are_even(settings):
    counts = defaultdict(Counter)
    for template, _, answer in asked(**settings):
        counts[template][answer] += 1
    for name, found in counts.items():
        assert_even(found, len(questions.TEMPLATES[name].answers(settings["world"])))
    if "questions_per_image" not in settings:
        templates = Counter(template for template, _, _ in asked(**settings))
        assert_even(templates, len(questions.TEMPLATES))


@pytest.mark.parametrize("world", [DEMO, LARGE], ids=["demo", "large"])
def test_twins_ask_the_same_and_differ_in_the_answer(world):
    found = asked(world=world)
    for first, second in zip(found[::2], found[1::2]):
        assert first[:2] == second[:2] and first[2] != second[2]
    yes = Counter(answer for *_, answer in found)
    assert yes["yes"] == yes["no"] > 100


@pytest.mark.parametrize("questions_per_image", [1, 3])
def test_text_alone_is_at_chance(questions_per_image):
    train, test = (
        asked(split=split, questions_per_image=questions_per_image) for split in ("train", "test")
    )
    excess, chance = majority_accuracy(train, test)
    assert abs(excess) < 3 and 0.2 < chance < 0.4
    excess, _ = majority_accuracy(train, train)
    assert excess > 3  # the predictor does learn


def test_the_number_of_objects_says_nothing_of_the_answer():
    counts = defaultdict(Counter)
    for record, (template, _, answer) in zip(records("vqa"), asked()):
        counts[template, answer][len(record.scene.objects)] += 1
    for template in ("exists", "left_of"):
        assert counts[template, "yes"] == counts[template, "no"]  # of twins, exactly
    for answer in ("none", "one", "two"):
        assert set(counts["count_of_shape", answer]) == {2}
    both = counts["size_of_shape", "small"] + counts["size_of_shape", "large"]
    assert_even(both, 2)


def test_what_is_not_there_has_look_alikes():
    kinds = Counter()
    for record, (template, text, answer) in zip(records("vqa"), asked()):
        if (template, answer) == ("exists", "no"):
            colour, shape = parse_answer(text.removeprefix("is there ").rstrip("?")).split()
            items = record.scene.objects
            kinds[any(x.colour == colour for x in items), any(x.shape == shape for x in items)] += 1
    assert set(kinds) == {(True, False), (False, True), (True, True)}
    assert min(kinds.values()) > 20


def test_objects_that_are_asked_for_are_anywhere_in_the_list():
    places = Counter()
    for record, (template, text, _) in zip(records("vqa"), asked()):
        if template == "colour_of_shape" and len(record.scene.objects) == 2:
            shape = parse_answer(text.removeprefix("what colour is ").rstrip("?"))
            places[[x.shape for x in record.scene.objects].index(shape)] += 1
    assert_even(places, 2)


def test_further_questions_ask_different_things():
    numbers = Counter()
    for record in records("vqa", questions_per_image=3):
        found = record.fields["questions"]
        numbers[len(found)] += 1
        assert len({x["question"] for x in found}) == len(found)
        assert all(x["template"] in questions.FOR_ANY_SCENE for x in found[1:])
    assert set(numbers) <= {1, 2, 3} and numbers[3] > 1900


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What colour is the disc?", "red"),
        ("what colour is the square?", ""),  # there are two
        ("what colour is the ring?", ""),
        ("what shape is the amber object ?", "square"),
        ("where is the circle?", "top left"),
        ("what size is the dot?", "small"),
        ("what colour is the background?", "black"),
        ("how many objects are there?", "three"),
        ("how many box objects are there?", "two"),
        ("how many ring objects are there?", "none"),
        ("how many many objects are there?", ""),
        ("is there a red square?", "yes"),
        ("is there an orange circle?", "no"),
        ("is the circle left of the square?", ""),
        ("is it red?", ""),
        ("why?", ""),
    ],
)
def test_literal_answers(question, answer):
    assert answer_question(question, SCENE) == answer


def test_left_of_compares_columns():
    scene = Scene(SCENE.objects[:2], "black")
    assert answer_question("is the disc left of the box?", scene) == "yes"
    assert answer_question("is the box left of the disc?", scene) == "no"
    below = Scene((SCENE.objects[1], Phrase("ring", "red", "small", "", "bottom", "right")), "")
    assert answer_question("is the box left of the ring?", below) == ""


def test_answers_in_other_words_are_right():
    assert is_right_answer("where is the circle?", "Upper  left", SCENE)
    assert not is_right_answer("where is the circle?", "left", SCENE)
    assert not is_right_answer("why?", "why", SCENE)
    assert parse_answer("a crimson box") == "red square" and parse_answer("a a") == ""


def test_answers_use_the_first_word_most_often():
    rng = np.random.default_rng(0)
    words = Counter(render_answer("red", rng) for _ in range(2000))
    assert words["red"] / 2000 == pytest.approx(0.6, abs=0.04)
    assert words["crimson"] / 2000 == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"templates": ("colour",)}, "vqa has no template 'colour'"),
        ({"templates": ("left_of",), "world": World(max_objects=1)}, "template left_of needs"),
        ({"templates": ("count",), "world": SMALL}, "needs a world with max_objects above min"),
        ({"questions_per_image": 0}, "questions_per_image is 0"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        ShapesConfig(kind="vqa", **wrong)


def test_templates_can_be_chosen_and_default_to_what_the_world_allows():
    one = ShapesConfig(kind="vqa", world=World(max_objects=1))
    assert set(questions.TEMPLATES) - set(one.templates) == {"count", "left_of"}
    found = asked(templates=("exists", "count"), count=40)
    assert {template for template, _, _ in found} == {"exists", "count"}
    assert ShapesConfig(kind="human").name != ShapesConfig(kind="vqa").name
