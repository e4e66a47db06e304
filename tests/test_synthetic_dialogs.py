"""Dialogs of the Shapes dataset: right answers, fair options, and nothing asked that is known."""

from collections import Counter, defaultdict

import pytest
from synthetic_records import DEMO, LARGE, SMALL, assert_even, majority_accuracy, records

from blip_jax.data.synthetic import dialogs
from blip_jax.data.synthetic.answers import parse_answer
from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.question_oracle import answer_question, is_right_answer
from blip_jax.data.synthetic.scenes import World
from blip_jax.runtime.errors import UserError

ALL = tuple(dialogs.ASKED)
SETTINGS = [
    {"world": DEMO}, {"world": LARGE, "count": 1000}, {"world": SMALL, "count": 500},
    {"world": DEMO, "templates": ALL, "rounds": 5, "option_synonyms": True, "count": 1000},
]  # fmt: skip


def rounds(**settings):
    """All (record, round)."""
    found = records("dialog", **settings)
    return [(record, x) for record in found for x in record.fields["rounds"]]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_right_answer_is_once_among_different_options(settings):
    for record, x in rounds(**settings):
        caption = record.fields["caption"]
        assert record.raw["texts"] == [caption]
        right = [
            is_right_answer(x["question"], option, record.scene, caption) for option in x["options"]
        ]
        assert x["options"][x["answer_index"]] == x["answer"] and right[x["answer_index"]]
        assert len(x["options"]) == len(set(x["options"])) == 10
        assert sum(right) == 1 or settings.get("option_synonyms")
        expected = [0.5 * value for value in right]
        expected[x["answer_index"]] = 1.0
        assert x["relevance"] == expected
    assert all(len(r.fields["rounds"]) == settings.get("rounds", 3) for r, _ in rounds(**settings))


def facts(question: str) -> set[tuple[str, str]]:
    """What the answer to a question tells or narrows: (subject, attribute)."""
    subject = "other" if "other object" in question else "it"
    words = question.rstrip("?").split()
    if words[:2] == ["what", "is"]:
        return {(subject, "colour"), (subject, "shape")}
    name = words[1] if words[0] == "what" else "shape" if words[-2] in ("a", "an") else "colour"
    return {(subject, name)}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_round_asks_what_is_known(settings):
    for record in records("dialog", **settings):
        known = set()
        for x in record.fields["rounds"]:
            assert not known & facts(x["question"]), record.fields
            known |= facts(x["question"])


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[-1]], ids=str)
def test_answers_are_even(settings):
    counts = defaultdict(Counter)
    for _, x in rounds(**settings):
        counts[x["template"]][parse_answer(x["answer"])] += 1
    sizes = {"colour": 5, "shape": 4, "phrase": 20, "size": 2, "yes_no": 2}
    assert set(counts) == set(settings.get("templates", dialogs.DEFAULT_TEMPLATES))
    for template, found in counts.items():
        assert_even(found, sizes[template])
        assert found.total() > 300
    assert_even(Counter(x["answer_index"] for _, x in rounds(**settings)), 10)
    first = Counter(r.fields["rounds"][0]["template"] for r in records("dialog", **settings))
    assert_even(first, len(counts))


def test_text_alone_is_at_chance():
    train, test = (
        [(x["template"], x["question"], parse_answer(x["answer"])) for _, x in rounds(split=split)]
        for split in ("train", "test")
    )
    excess, chance = majority_accuracy(train, test)
    assert abs(excess) < 3 and 0.1 < chance < 0.25


def test_the_right_phrase_is_not_the_one_that_the_others_are_like():
    likest = []
    for _, x in rounds():
        if x["template"] == "phrase":
            options = [parse_answer(option).split() for option in x["options"]]
            assert {len(option) for option in options} == {2}
            shared = [
                sum(a == c or b == d for c, d in options) for a, b in options
            ]  # phrases that are one word off or equal
            best = [i for i, value in enumerate(shared) if value == max(shared)]
            likest.append((x["answer_index"] in best) / len(best))
            assert shared[x["answer_index"]] == 6
    assert sum(likest) / len(likest) == pytest.approx(0.1, abs=0.04)


def test_options_tell_nothing_of_the_answer():
    # Of concepts with two words among the options, the right one is there as often as any other.
    twice = Counter()
    for _, x in rounds(option_synonyms=True, count=1000):
        if x["template"] == "colour":
            concepts = Counter(parse_answer(option) for option in x["options"])
            right = parse_answer(x["answer"])
            twice["right"] += concepts[right]
            twice["others"] += sum(concepts[c] for c in concepts if c != right) / 4
    assert twice["right"] == pytest.approx(twice["others"], rel=0.05)


def test_it_is_the_object_of_the_caption():
    record = records("dialog")[0]
    caption, scene = record.fields["caption"], record.scene
    it, other = (
        answer_question(f"what is {subject}?", scene, caption) for subject in dialogs.SUBJECTS
    )
    assert sorted([it, other]) == sorted(f"{x.colour} {x.shape}" for x in scene.objects)
    place = parse_answer(" ".join(caption.split()[2:4])).split()
    assert it in [f"{x.colour} {x.shape}" for x in scene.objects if [x.row, x.column] == place]
    assert answer_question("what colour is it?", scene) == ""


@pytest.mark.parametrize(
    ("templates", "most"),
    [
        (("colour",), 2), (("colour", "shape"), 4), (("colour", "shape", "phrase"), 3),
        (("phrase",), 1), (("colour", "phrase"), 2), (("size", "phrase"), 3), (ALL, 5),
        (("yes_no",), 4),
    ],
)  # fmt: skip
def test_dialogs_have_as_many_rounds_as_are_always_possible(templates, most):
    assert dialogs.max_rounds(templates) == most
    found = records("dialog", templates=templates, rounds=most, count=60)
    assert {len(record.fields["rounds"]) for record in found} == {most}
    with pytest.raises(UserError, match=f"rounds is {most + 1}; it must be from 1 to {most}"):
        ShapesConfig(kind="dialog", templates=templates, rounds=most + 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"world": World(max_objects=1)}, "dialog needs two objects"),
        ({"options": 1}, "options is 1; it must be from 2 to 14"),
        ({"templates": ("place",)}, "dialog has no template 'place'"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        ShapesConfig(kind="dialog", **wrong)
