"""Statements about pairs of images of the Shapes dataset: twins, of which one is true."""

from collections import Counter

import pytest
from synthetic_records import DEMO, LARGE, SMALL, assert_even, majority_accuracy, records

from blip_jax.data.synthetic import statements
from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.grammar import Phrase
from blip_jax.data.synthetic.question_oracle import is_true_of_pair
from blip_jax.data.synthetic.scenes import Scene
from blip_jax.runtime.errors import UserError

ALL = tuple(statements.TEMPLATES)
LEFT = Scene((Phrase("circle", "red", "small", "", "top", "left"),), "black")
RIGHT = Scene(
    (
        Phrase("circle", "orange", "small", "", "top", "left"),
        Phrase("square", "red", "large", "", "top", "right"),
    ),
    "gray",
)


def made(**settings):
    """The only statement of each record."""
    found = [record.fields["statements"] for record in records("pairs", **settings)]
    assert all(len(x) == 1 for x in found)
    return [x[0] for x in found]


@pytest.mark.parametrize("settings", [
    {"templates": ALL}, {"world": LARGE}, {"world": SMALL, "count": 500},
], ids=str)  # fmt: skip
def test_every_label_is_right(settings):
    for record, statement in zip(records("pairs", **settings), made(**settings)):
        truth = is_true_of_pair(statement["statement"], record.scene, record.second)
        assert truth is statement["label"], statement


@pytest.mark.parametrize("world", [DEMO, LARGE], ids=["demo", "large"])
def test_twins_are_true_once(world):
    found = made(world=world)
    texts = Counter((x["statement"], x["label"]) for x in found)
    assert all(texts[text, True] == texts[text, False] for text, _ in texts)
    for first, second in zip(found[::2], found[1::2]):
        assert first["statement"] == second["statement"] and first["group"] == second["group"]
        assert {first["label"], second["label"]} == {True, False}
    assert len({x["group"] for x in found}) == len(found) // 2
    assert len({x["id"] for x in found}) == len(found)
    assert_even(Counter(x["template"] for x in found), len(statements.DEFAULT_TEMPLATES))
    assert_even(Counter(x["label"] for x in found[::2]), 2)  # not always the first


def test_text_alone_is_at_chance():
    train, test = (
        [(x["template"], x["statement"], x["label"]) for x in made(split=split)]
        for split in ("train", "test")
    )
    excess, chance = majority_accuracy(train, test)
    assert excess == 0 and chance == 0.5  # exactly, by the twins


def test_the_numbers_of_objects_say_nothing_of_what_is_shown():
    counts = {True: [], False: []}
    for record, statement in zip(records("pairs"), made()):
        if statement["template"] not in ("more", "total"):
            sizes = len(record.scene.objects), len(record.second.objects)
            counts[statement["label"]].append((statement["statement"], sizes))
    assert sorted(counts[True]) == sorted(counts[False])


def test_no_statement_names_a_place_within_an_image():
    # "left" and "right" name the images, so that a swap of these can be undone in the words
    words = {word for x in made(templates=ALL) for word in x["statement"].split()}
    assert not words & {"top", "upper", "bottom", "lower"}
    assert all(
        x["statement"].split()[x["statement"].split().index(side) + 1] == "image"
        for x in made()
        for side in ("left", "right")
        if side in x["statement"].split()
    )


def test_same_background_is_only_made_on_request():
    assert "same_background" not in ShapesConfig(kind="pairs").templates
    found = made(templates=("same_background",), count=10)
    assert {x["statement"] for x in found} == {"the background of both images is the same"}


@pytest.mark.parametrize(
    ("statement", "true"),
    [
        ("the right image has more objects than the left image", True),
        ("the left image has more objects than the right image", False),
        ("there is a disc in both images", True),
        ("there is a box in both images", False),
        ("both images show a red circle", False),
        ("neither image shows an orange box", True),
        ("neither image shows a crimson dot", False),
        ("The left image shows a red circle", True),
        ("the right image shows a red circle", False),
        ("exactly one image shows a red circle", True),
        ("exactly one image shows a red ring", False),
        ("there are three objects in all", True),
        ("there are four objects in all", False),
        ("the background of both images is the same", False),
        ("no image shows a red circle", None),
        ("there are many objects in all", None),
        ("nonsense", None),
    ],
)
def test_literal_labels(statement, true):
    assert is_true_of_pair(statement, LEFT, RIGHT) is true


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match="pairs has no template 'boths'; did you mean 'both'"):
        ShapesConfig(kind="pairs", templates=("boths",))
    with pytest.raises(UserError, match="template more needs a world with max_objects above min"):
        ShapesConfig(kind="pairs", templates=("more",), world=SMALL)
