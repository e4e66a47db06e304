"""Benchmarks' files as editors and spreadsheets save them again: byte order marks and UTF-16."""

import pytest
from ingest_fixture import run
from test_benchmarks_refused import ALL, made, refusal

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import read_json
from blip_jax.tasks.evaluate import read_predictions

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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_that_other_verbs_read(tmp_path, encoding):
    """Mixtures, configurations and predictions, as editors on Windows save them."""
    path = tmp_path / "x.json"
    path.write_text('{"key": "é"}\n', encoding=encoding)
    assert read_json(path) == {"key": "é"} and read_predictions(str(path)) == [{"key": "é"}]
    path.write_text('{"key": "é"}', encoding="cp1252")
    for read in (read_json, read_predictions):
        with pytest.raises(UserError, match=r"x\.json (is not a JSON file|cannot be read): "):
            read(str(path))
