"""Tables of questions of one's own: lists, missing values and broken rows in their fields."""

import collections
import json

import pyarrow
import pyarrow.parquet
import pytest
from ingest_fixture import check_rows, pictures, run

from blip_jax.data.fields import problems_of, questions_of, rounds_of, statements_of

NAN = float("nan")
LEFT = "questions left out: not a text"
NO_ANSWER = "answers left out: not a text"


def asked(row):
    return [(entry["question"], entry["answers"]) for entry in questions_of(row)]


def imported(tmp_path, lines, name="out", ending="jsonl", **fields):
    """(manifest, rows) of a table, each line of which is about an image of its own."""
    lines = [{"image": f"{n}.jpg"} | line for n, line in enumerate(lines)]
    path = tmp_path / "images" / f"x.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, lines)))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), path)
    manifest, rows, _ = run(tmp_path, path, name, allow_no_text=True, **fields)
    return manifest, rows


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_in_fields_of_one_text(tmp_path, ending):
    pictures(tmp_path)
    lines = [
        {"question": ["who?", "why?"], "answer": ["me", "so"], "caption": ["a", "b"]},
        {"question": ["how many?"], "answer": ["two", "2"], "caption": ["c"]},
        {"question": ["a?", "b?", "c?"], "answer": ["x", "y"], "caption": []},
    ]
    manifest, rows = imported(tmp_path, lines, ending=ending)
    assert [row["texts"] for row in rows] == [["a", "b"], ["c"], []]
    assert asked(rows[0]) == [("who?", ["me"]), ("why?", ["so"])]
    assert asked(rows[1]) == [("how many?", ["two", "2"])]
    assert asked(rows[2]) == [("a?", []), ("b?", []), ("c?", [])]
    assert len({entry["id"] for entry in questions_of(rows[0])}) == 2
    assert manifest["warnings"] == {NO_ANSWER: 3}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("['a cat', 'a dog']", ["a cat", "a dog"]),  # pandas, of a list
        ("['a cat' 'a dog']", ["a cat", "a dog"]),  # pandas, of an array
        ('["a cat", "a dog"]', ["a cat", "a dog"]),  # JSON
        ("['a cat', nan]", ["a cat"]),
        ("[a cat]", ["[a cat]"]),
        ("[sic] a cat", ["[sic] a cat"]),
    ],
)
def test_lists_in_the_fields_of_a_csv_table(tmp_path, written, read):
    pictures(tmp_path, 1)
    quoted = '"' + written.replace('"', '""') + '"'
    path = tmp_path / "images" / "x.csv"
    path.write_text(f"image,caption,question,answers\n0.jpg,{quoted},who?,{quoted}\n")
    manifest, (row,), _ = run(tmp_path, path)
    assert row["texts"] == read and asked(row) == [("who?", read)]
    assert manifest["warnings"] == ({NO_ANSWER: 1} if "nan" in written else {})


def test_several_images_in_one_record_are_counted(tmp_path):
    pictures(tmp_path)
    lines = [{"image": ["0.jpg"], "caption": "a"}, {"image": ["1.jpg", "2.jpg"], "caption": "b"}]
    manifest, rows = imported(tmp_path, lines)
    check_rows(rows, [["a"]])
    assert manifest["skipped"] == {"missing image": 1}
    (line,) = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["detail"] == "2 images in field image, expected one"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_missing_values_are_no_text(tmp_path, ending):
    pictures(tmp_path)
    lines = [
        {"question": "who?", "answer": "me", "score": 1.0},
        {"question": "why?", "answer": NAN if ending == "jsonl" else None, "score": NAN},
        {"question": NAN if ending == "jsonl" else None, "answer": "so", "score": 0.5},
    ]
    manifest, rows = imported(tmp_path, lines, ending=ending)
    assert [asked(row) for row in rows] == [[("who?", ["me"])], [("why?", [])], []]
    assert manifest["warnings"] == {LEFT: 1, NO_ANSWER: 1}
    assert "nan" not in " ".join(row["fields"].lower() for row in rows)


def test_answers_that_are_numbers_are_texts(tmp_path):
    """pandas makes whole numbers floats in a column with missing values."""
    pictures(tmp_path, 1)
    answers = [2, 3.0, 2.5, True, NAN, None, " ", {"answer": "two"}, {"answer": NAN}, ["x"]]
    manifest, (row,) = imported(tmp_path, [{"question": "how many?", "answers": answers}])
    assert asked(row) == [("how many?", ["2", "3", "2.5", "two"])]
    assert manifest["warnings"] == {NO_ANSWER: 6}


def test_rows_of_one_image_keep_all_their_questions(tmp_path):
    """Consecutive rows of an image are one record."""
    pictures(tmp_path, 2)
    path = tmp_path / "images" / "x.csv"
    path.write_text(
        "image,question,answer,question_id\n"
        "0.jpg,who?,me,7\n0.jpg,why?,so,8\n0.jpg,why?,thus,8\n0.jpg,,so,9\n"
        "1.jpg,who?,you,10\n1.jpg,where?,you,11\n"
    )
    manifest, rows, _ = run(tmp_path, path, allow_no_text=True)
    assert asked(rows[0]) == [("who?", ["me"]), ("why?", ["so", "thus"])]
    assert asked(rows[1]) == [("who?", ["you"]), ("where?", ["you"])]
    assert [entry["id"] for entry in questions_of(rows[0])] == ["7", "8"]
    assert manifest["warnings"] == {LEFT: 1}


def test_a_quote_that_is_never_closed_in_a_table_of_questions(tmp_path):
    pictures(tmp_path)
    path = tmp_path / "images" / "x.csv"
    path.write_text('image,question,answer\n0.jpg,who?,me\n1.jpg,"why,so\n2.jpg,"how, then?",x\n')
    manifest, rows, _ = run(tmp_path, path, allow_no_text=True)
    assert [asked(row) for row in rows] == [[("who?", ["me"])], [("how, then?", ["x"])]]
    assert manifest["skipped"] == {"broken row": 1}
    (line,) = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["detail"] == (
        'line 3 (byte 36): a quote is never closed: 1.jpg,"why,so'
    )


@pytest.mark.parametrize(
    ("label", "read"),
    [(1, True), (0.0, False), ("1", True), ("FALSE", False), (NAN, None), (5, None), ([], None)],
)
def test_labels_of_statements(tmp_path, label, read):
    pictures(tmp_path, 1)
    manifest, (row,) = imported(tmp_path, [{"statement": "two dogs", "label": label}])
    assert [entry["label"] for entry in statements_of(row)] == [read]
    name = "statements whose label is neither true nor false"
    assert manifest["warnings"] == ({name: 1} if read is None else {})


def test_rounds_without_a_text_are_counted(tmp_path):
    pictures(tmp_path, 2)
    rounds = [{"question": "who?", "options": ["me", 2], "answer_index": 1},
              {"question": "how?", "options": ["me", NAN], "answer": NAN},
              {"question": NAN}, {"question": "why?"}]  # fmt: skip
    manifest, rows = imported(tmp_path, [{"rounds": rounds}, {"rounds": json.dumps(rounds[:1])}])
    found = [(entry["options"], entry["answer"]) for entry in rounds_of(rows[0])]
    assert found == [(["me", "2"], "2"), ([], "")]
    assert [entry["question"] for entry in rounds_of(rows[1])] == ["who?"]
    assert manifest["warnings"] == {
        "rounds left out: not a text, or after one that is not": 2,
        "rounds whose options are not all texts": 1,
    }


def test_problems_of_fields_that_are_none():
    for fields in ({}, {"questions": 3}, {"question": 3.5}, {"merged": [{"caption_id": 1}]}):
        assert problems_of(fields) in (collections.Counter(), {LEFT: 1})
    assert problems_of({"questions": [2, {"question": ""}]}) == {LEFT: 2}
