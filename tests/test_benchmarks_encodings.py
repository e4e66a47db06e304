"""Benchmarks' files as editors and spreadsheets save them again: byte order marks and UTF-16."""

import pytest
from ingest_fixture import run
from test_benchmarks_refused import ALL, made, refusal

TEXTS = (".json", ".jsonl", ".csv", ".txt")


def files_of(folder):
    return [path for path in folder.rglob("*") if path.suffix in TEXTS]


@pytest.mark.parametrize("benchmark", ALL)
def test_a_byte_order_mark_changes_nothing(tmp_path, benchmark):
    folder, split, _ = made(tmp_path, benchmark)
    plain = run(tmp_path, folder, "plain", benchmark=benchmark, split=split)
    for path in files_of(folder):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = run(tmp_path, folder, "marked", benchmark=benchmark, split=split)
    assert marked[1] == plain[1] and marked[0]["skipped"] == plain[0]["skipped"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
@pytest.mark.parametrize("benchmark", ALL)
def test_utf_16_is_named(tmp_path, benchmark, encoding):
    folder, split, file = made(tmp_path, benchmark)
    for path in files_of(folder):
        path.write_text(path.read_text(), encoding=encoding)
    line = refusal(tmp_path, benchmark, split)
    assert line.startswith(f"{folder}/") and line.endswith("; save it as UTF-8")
