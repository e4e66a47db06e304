"""The table of scores: of all images, of some, and from a file."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest
import scored_dataset
from etils import epath

from blip_jax.capfilt import image_index, score_reader, storage
from blip_jax.capfilt.table import load_table, save_table
from blip_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("reader"), ("judge", "other"))


def check_equal(one, two):
    for field in dataclasses.fields(one):
        own, other = getattr(one, field.name), getattr(two, field.name)
        if isinstance(own, np.ndarray):
            assert own.dtype == other.dtype
            np.testing.assert_array_equal(own, other)
        elif isinstance(own, pa.DictionaryArray):
            assert own.dictionary.equals(other.dictionary) and own.indices.equals(other.indices)
        else:
            assert own == other, field.name


def test_some_rows_are_read_alone(web):
    whole, rows = storage.read(web.scores, "train"), [3, 7, 110, 239]
    table = score_reader.read_rows(web.scores, "train", rows)
    assert table.key.to_pylist() == [whole.key[row].as_py() for row in rows]
    own = np.isin(whole.row, rows)
    np.testing.assert_array_equal(table.row, np.searchsorted(rows, whole.row[own]))
    np.testing.assert_array_equal(table.p_match, whole.p_match[own])
    assert table.text.to_pylist() == whole.text.filter(pa.array(own)).to_pylist()
    index, some = (image_index.read(web.images, 240, x) for x in (None, np.array(rows)))
    assert some.table.equals(index.table.take(rows))


def test_rows_that_are_read_alone_are_rows_of_the_table(web):
    whole, rows = storage.read(web.scores, "train"), np.array([0, 3, 7, 110, 239])
    check_equal(whole.take_rows(rows), score_reader.read_rows(web.scores, "train", rows.tolist()))
    nothing = score_reader.read_rows(web.scores, "train", [])
    assert nothing.filters == ("judge", "other") and nothing.p_match.shape == (0, 2)
    assert not len(nothing.key) and not len(whole.take_rows(rows[:0]).text)


@pytest.mark.parametrize("extra_names", [(), ("aesthetic", "safety")])
def test_a_table_is_loaded_as_it_was_saved(web, tmp_path, extra_names):
    extra = np.arange(240 * len(extra_names), dtype=np.float32).reshape(240, -1)
    one = dataclasses.replace(
        storage.read(web.scores, "train"), extra_scores=extra, extra_names=extra_names
    )
    save_table(one, epath.Path(tmp_path) / "table.arrow")
    check_equal(one, load_table(epath.Path(tmp_path) / "table.arrow"))


def test_a_damaged_shard_is_told(web, tmp_path):
    folder = tmp_path / "scores"
    shutil.copytree(web.scores, folder)
    path = sorted(folder.glob("*.array_record-*"))[1]
    path.write_bytes(path.read_bytes()[:-40_000])
    with pytest.raises(UserError, match="row .* cannot be read .*its file is damaged"):
        storage.read(str(folder), "train")
