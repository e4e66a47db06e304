"""Scores that several processes read: the table of one process, and its errors."""

import dataclasses
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
import scored_dataset
from etils import epath

from blip_jax.capfilt import image_index, score_reader, storage
from blip_jax.capfilt.table import load_table, save_table
from blip_jax.cli.main import main
from blip_jax.runtime import work_units
from blip_jax.runtime.beam import UnitStopped
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted
from blip_jax.runtime.work_units import Engine
from blip_jax.runtime.worker_pool import num_workers, worker_pool


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("reader"), ("judge", "other"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(score_reader, "PART", 70)  # of 240 rows: four parts over three shards


def test_the_table_is_that_of_one_process(web):
    one, two = (storage.read(web.scores, "train", Engine(workers)) for workers in (1, 2))
    check_equal(one, two)


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


def test_what_was_read_is_kept_until_all_is(web, tmp_path, monkeypatch):
    folder, read, calls = tmp_path / "parts", score_reader.read_rows, []
    monkeypatch.setattr(work_units, "_run_in_pool", _run_here)

    def stop_at_the_third(directory, split, rows, *rest):
        calls.append(rows[0])
        if len(calls) == 3:
            raise UnitStopped
        return read(directory, split, rows, *rest)

    monkeypatch.setattr(score_reader, "read_rows", stop_at_the_third)
    with pytest.raises(Interrupted, match="stopped after 140 of 240 rows"):
        storage.read(web.scores, "train", Engine(2, folder=str(folder)))
    assert sorted(path.stem for path in folder.iterdir()) == ["000000", "000001"]
    table = storage.read(web.scores, "train", Engine(2, folder=str(folder)))
    assert calls == [0, 70, 140, 140, 210] and len(table.key) == 240 and not folder.exists()


def _run_here(numbers, make_work, workers, should_stop):
    for number in numbers:
        make_work()(number, lambda: True)
        yield number


@pytest.mark.parametrize("extra_names", [(), ("aesthetic", "safety")])
def test_a_table_is_loaded_as_it_was_saved(web, tmp_path, extra_names):
    extra = np.arange(240 * len(extra_names), dtype=np.float32).reshape(240, -1)
    one = dataclasses.replace(
        storage.read(web.scores, "train"), extra_scores=extra, extra_names=extra_names
    )
    save_table(one, epath.Path(tmp_path) / "table.arrow")
    check_equal(one, load_table(epath.Path(tmp_path) / "table.arrow"))


def test_assembling_writes_the_same_files(web, tmp_path):
    files = {}
    for workers in (1, 2):
        out = tmp_path / "out"
        options = f"--config.workers={workers}", "--config.gallery_images=20"
        assert (
            main(["assemble", f"--workdir={out}", f"--config.scores={web.scores}", *options]) == 0
        )
        paths = [*out.glob("*.npy"), out / "mixture.json", out / "statistics.json"]
        option = f"workers={workers}".encode()  # which statistics.json has in its command
        found = {path.name: path.read_bytes().replace(option, b"") for path in paths}
        files[workers] = found
        shutil.rmtree(out)
    assert files[1] == files[2] and len(files[1]) == 3


def test_a_damaged_shard_is_told(web, tmp_path):
    folder = tmp_path / "scores"
    shutil.copytree(web.scores, folder)
    path = sorted(folder.glob("*.array_record-*"))[1]
    path.write_bytes(path.read_bytes()[:-40_000])
    for workers in (1, 2):
        with pytest.raises(UserError, match="row .* cannot be read .*its file is damaged"):
            storage.read(str(folder), "train", Engine(workers))


def test_a_killed_worker_is_told(web, monkeypatch):
    monkeypatch.setattr(score_reader, "_unit_work", _killing_work)
    with pytest.raises(UserError, match="killed, perhaps for lack of memory.*--config.workers"):
        storage.read(web.scores, "train", Engine(2))


def _killing_work(*arguments):
    return lambda number, should_continue: os.kill(os.getpid(), 9)


def test_a_number_of_workers():
    assert num_workers(3) == 3
    assert num_workers(0) == len(os.sched_getaffinity(0))
    with worker_pool(1, _remember, "given") as pool:
        assert pool.submit(_remembered).result() == "given"


def _remember(value):
    os.environ["BLIP_JAX_TEST"] = value


def _remembered():
    return os.environ["BLIP_JAX_TEST"]
