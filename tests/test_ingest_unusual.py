"""Inputs that are easily misread: names, links, splits, quotes, and what is not there."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from ingest_fixture import TEXTS, check_rows, pictures, run

from blip_jax.cli.main import main
from blip_jax.runtime.errors import UserError


def with_texts(folder):
    for number, texts in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text("\n".join(texts))
    return folder


def test_names_that_are_not_utf8(tmp_path):
    folder = with_texts(pictures(tmp_path))
    os.rename(folder / "2.jpg", os.fsencode(folder) + b"/2\xe9.jpg")
    os.rename(folder / "2.txt", os.fsencode(folder) + b"/2\xe9.txt")
    _, rows, _ = run(tmp_path, folder)
    check_rows(rows)


def test_urls_that_end_in_the_same_name_are_counted(tmp_path):
    folder = pictures(tmp_path)
    urls = ["http://a.com/1/0.jpg", "http://b.org/0.jpg?w=3", "http://a.com/1.jpg"]
    records = [{"url": url, "caption": f"text {n}"} for n, url in enumerate(urls)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    manifest, rows, _ = run(tmp_path, tmp_path / "x.jsonl", images=str(folder))
    assert len(rows) == 3
    assert manifest["warnings"] == {
        "images found by the last part of their URL": 3,
        "images that another URL with the same last part has too": 1,
    }


def test_links_to_folders_are_named(tmp_path):
    folder = with_texts(pictures(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    manifest, rows, _ = run(tmp_path, folder)
    check_rows(rows)
    (note,) = manifest["passed_over"]
    assert "links to folders, more; to read them, name them" in note


def test_files_of_several_splits_are_named(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    data = [path.read_bytes() for path in sorted(pictures(tmp_path).glob("*.jpg"))]
    for split, number in (("train", 0), ("validation", 1)):
        record = {"image": {"bytes": data[number], "path": None}, "text": TEXTS[number]}
        name = f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), folder / name)
    manifest, rows, _ = run(tmp_path, folder)
    assert len(rows) == 2
    assert "the splits train, validation, which become one" in manifest["passed_over"][0]
    with pytest.raises(UserError, match="config.split is 'validation', but only benchmarks"):
        run(tmp_path, folder, "other", split="validation")


def test_a_dataset_in_the_folder_that_is_read_is_refused(tmp_path):
    folder = with_texts(pictures(tmp_path))
    with pytest.raises(UserError, match="is in .*, which is read; choose a folder outside"):
        run(tmp_path, folder, f"{folder.name}/out")
    assert not (folder / "out").exists()


def test_damaged_rows_of_a_parquet_file_are_counted(tmp_path):
    data = [path.read_bytes() for path in sorted(pictures(tmp_path).glob("*.jpg"))]
    records = [{"image": data[n % 3], "text": f"text {n}"} for n in range(9)]
    path = tmp_path / "x.parquet"
    table = pyarrow.Table.from_pylist(records)
    pyarrow.parquet.write_table(table, path, row_group_size=3, compression="none")
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    manifest, rows, _ = run(tmp_path, path)
    assert [row["texts"][0] for row in rows] == [f"text {n}" for n in (0, 1, 2, 6, 7, 8)]
    assert manifest["skipped"] == {"broken Parquet": 3}


@pytest.mark.parametrize("text", [r'"a \"quoted\" cat"', '"he said "hi" to me"'])
def test_quotes_that_are_not_doubled_break_a_row(tmp_path, text):
    pictures(tmp_path)
    lines = ["image,caption", f"images/0.jpg,{text}", 'images/1.jpg,"a ""red"" ball"',
             'images/2.jpg,a 6" ruler', 'images/0.jpg,"a dog" ']  # fmt: skip
    (tmp_path / "x.csv").write_text("\n".join(lines))
    manifest, rows, _ = run(tmp_path, tmp_path / "x.csv")
    found = [row["texts"][0] for row in rows]
    assert found == ['a "red" ball', 'a 6" ruler', "a dog"]
    assert manifest["skipped"] == {"broken row": 1}
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text()
    assert "line 2 (byte 14): a quote is not closed, or not doubled" in skipped


def test_missing_values_are_no_text(tmp_path):
    pictures(tmp_path)
    lines = [
        "image,caption,alt",
        "images/0.jpg,NaN,a dog",
        "images/1.jpg,NULL,",
        "images/2.jpg,a cat,x",
    ]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    manifest, rows, _ = run(tmp_path, tmp_path / "x.csv")
    assert [row["texts"][0] for row in rows] == ["a dog", "a cat"]
    assert manifest["skipped"] == {"empty text": 1}


def test_the_first_of_records_that_cannot_be_used_is_told(tmp_path):
    record = {"image": "nowhere/7.jpg", "caption": "a dog"}
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"the first: \S+, missing image \(nowhere/7.jpg: it does"):
        run(tmp_path, tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.jsonl.gz", "x.jsonl.gz is compressed; decompress it"),
        ("saved", "has Arrow files (data-0.arrow), which are not read; save"),
    ],
)
def test_files_that_are_not_read_are_named(tmp_path, capsys, name, said):
    if name == "saved":
        (tmp_path / name).mkdir()
        (tmp_path / name / "data-0.arrow").write_bytes(b"ARROW1")
        (tmp_path / name / "state.json").write_text("{}")
    else:
        (tmp_path / name).write_bytes(b"\x1f\x8b")
    argv = ["prepare", f"--workdir={tmp_path / 'out'}", f"--config.source={tmp_path / name}"]
    assert main(argv) == 2
    assert said in capsys.readouterr().err
