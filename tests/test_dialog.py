"""What is read of a record's dialog, and the tokens of a round."""

import json

import numpy as np
import pytest

from blip_jax.data.dialog import DialogRound, dialog_round, encode_rounds
from blip_jax.data.fields import dialog_caption, rounds_of

ROUND = DialogRound(
    "a red circle", ("a blue circle top", "a green square left"), "a circle", ("red", "blue square")
)


def record(*rounds, **fields):
    return {"key": "7", "texts": ["text"], "fields": json.dumps({"rounds": rounds, **fields})}


@pytest.fixture(scope="module")
def encode(world):
    def encoded(rounds, candidates, length):
        ids, mask = encode_rounds(world.tokenizer, rounds, candidates, length)
        assert ids.shape == mask.shape == (len(rounds), candidates, length)
        assert (ids[~mask] == world.tokenizer.ids.pad).all()
        special = {world.tokenizer.ids.cls: "[C]", world.tokenizer.ids.sep: "[S]"}
        return [
            [
                " ".join(special.get(i) or world.tokenizer.decode([[i]])[0] for i in row[read])
                for row, read in zip(texts, masks, strict=True)
            ]
            for texts, masks in zip(ids, mask, strict=True)
        ]

    return encoded


def test_a_round_is_caption_history_question_and_candidate(encode):
    before = "[C] a red circle [S] a blue circle top [S] a green square left [S] a circle"
    assert encode([ROUND], 2, 24) == [[f"{before} red [S]", f"{before} blue square [S]"]]
    # Further candidates are left out, and missing ones hold nothing.
    assert encode([ROUND], 1, 24) == [[f"{before} red [S]"]]
    assert encode([ROUND], 3, 24)[0][2] == "[C] [S]"


def test_the_oldest_rounds_are_dropped_first(encode):
    end = "a circle blue square [S]"
    caption, first, second = "a red circle [S]", "a blue circle top [S]", "a green square left [S]"
    whole = 1 + 4 + 5 + 5 + 5
    for length, wanted in {
        whole: f"[C] {caption} {first} {second} {end}",
        whole - 1: f"[C] {caption} {second} {end}",
        whole - 5: f"[C] {caption} {second} {end}",
        whole - 6: f"[C] {caption} {end}",
        10: f"[C] {caption} {end}",
        9: f"[C] a red [S] {end}",
        7: f"[C] {end}",
        6: f"[C] {end}",
        5: "[C] a blue square [S]",
    }.items():
        found = encode([ROUND], 2, length)[0]
        assert found[1] == wanted, length
        # Both candidates follow the same words.
        assert found[0] == wanted.replace("blue square", "red"), length


def test_rounds_of_a_record():
    options = ["Yes.", "no"]
    full = {"question": "Is it red?", "answer": "yes", "options": options, "answer_index": 0}
    asked = {"question": "And: blue?", "options": options, "relevance": [0, 0.5]}
    found = rounds_of(record(full, asked))
    assert [r["id"] for r in found] == ["7#1", "7#2"]
    assert [r["answer_index"] for r in found] == [0, None]
    assert [r["relevance"] for r in found] == [None, [0.0, 0.5]]
    assert [r["answer"] for r in found] == ["yes", ""]
    assert dialog_round(record(full, asked, caption="A cat: here."), 1) == DialogRound(
        "a cat here", ("is it red? yes",), "and blue?", ("yes", "no")
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"answer_index": 2}, {"answer_index": None, "answer": ""}),
        ({"answer_index": True}, {"answer_index": None}),
        ({"answer_index": 1}, {"answer_index": 1, "answer": "no"}),
        ({"options": ["yes", None], "answer_index": 0}, {"options": [], "answer_index": None}),
        ({"relevance": [1]}, {"relevance": None}),
        ({"relevance": [1, -1]}, {"relevance": None}),
        ({"relevance": [1, float("nan")]}, {"relevance": None}),
        ({"relevance": [1, 10**400]}, {"relevance": None}),
    ],
)
def test_faulty_parts_of_a_round_are_unknown(change, wanted):
    (found,) = rounds_of(record({"question": "x", "options": ["yes", "no"], **change}))
    assert {name: found[name] for name in wanted} == wanted


def test_a_dialog_ends_where_it_cannot_be_read():
    assert len(rounds_of(record({"question": "x"}, {"answer": "y"}, {"question": "z"}))) == 1
    for fields in ("", "{", '{"rounds": 3}', '{"rounds": [3]}'):
        assert rounds_of({"key": "7", "fields": fields}) == []
    assert dialog_caption({"texts": [b"x"], "fields": ""}) == "x"
    assert dialog_caption({}) == ""


def test_no_room_but_for_the_candidate(encode):
    assert encode([ROUND], 2, 4) == [["[C] red [S]", "[C] blue square [S]"]]
    assert np.size(encode([ROUND, ROUND], 1, 2)) == 2
