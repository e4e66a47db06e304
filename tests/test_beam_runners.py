"""Units of work on Apache Beam: the same files as without, also after a kill or an error."""

import functools
import importlib.util
import pathlib
import signal
import subprocess
import sys
import time

import malformed_files
import pytest
import scored_dataset
import test_assembly_units
import test_ingest_duplicates
import tiny_dataset

from blip_jax.capfilt import dataset_parts
from blip_jax.capfilt import run as capfilt
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.data import ingest
from blip_jax.data.ingest.duplicates import DuplicateSearch
from blip_jax.decoding import Decoding
from blip_jax.models import load
from blip_jax.runtime import beam
from blip_jax.runtime.beam import BeamConfig
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.work_units import Engine, finish_units

DIRECT = BeamConfig(runner="DirectRunner")
TWO_PROCESSES = BeamConfig(
    "DirectRunner", "--direct_running_mode=multi_processing --direct_num_workers=2"
)
DASK = BeamConfig("DaskRunner")  # a scheduler and processes of its own on this machine
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs the extra `beam`"
)


def make_work(folder, failing=None, waiting=False):
    """Returns work that writes a file named by its unit, or waits until it is stopped."""

    def work(number, should_continue):
        while waiting:
            time.sleep(0.05)
            if not should_continue():
                raise beam.UnitStopped
        if number == 2 and failing:
            raise failing("unit 2 is damaged")
        (pathlib.Path(folder) / str(number)).touch()

    return work


def run_units(folder, config=DIRECT, failing=None, waiting=False):
    """Runs four units; returns the names of those that were done."""
    done = folder / "done"
    done.mkdir(exist_ok=True)
    make = functools.partial(make_work, str(done), failing, waiting)
    for _ in beam.run_units(range(4), make, config, str(folder / "beam"), lambda: waiting):
        pass
    assert not (folder / "beam").exists()
    return sorted(path.name for path in done.iterdir())


def content(folder):
    """Returns the bytes of a dataset's files by name."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@needs_beam
def test_each_unit_is_done(tmp_path):
    assert run_units(tmp_path) == ["0", "1", "2", "3"]


@needs_beam
@pytest.mark.parametrize(
    ("config", "failing", "message"),
    [
        (DIRECT, UserError, "^unit 2 is damaged$"),
        (DIRECT, ValueError, "Beam's DirectRunner failed: .*unit 2 is damaged.*resumes"),
        (BeamConfig("NoRunner"), None, "Beam's NoRunner failed: .*NoRunner"),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path, config, failing, message):
    with pytest.raises(UserError, match=message) as error:
        run_units(tmp_path, config, failing=failing)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "beam").exists()
    assert run_units(tmp_path) == ["0", "1", "2", "3"]


def test_beam_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'apache_beam is not installed; run pip install "blip-jax'):
        run_units(tmp_path)


@needs_beam
def test_a_run_that_is_stopped_ends(tmp_path):
    assert run_units(tmp_path, waiting=True) == []
    assert run_units(tmp_path) == ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    malformed_files.write_shards(folder, 6, 20, broken=7)
    return folder


@needs_beam
@pytest.mark.parametrize("config", [TWO_PROCESSES, DASK], ids=["DirectRunner", "DaskRunner"])
def test_an_import_is_the_same_and_resumes_after_a_kill(tars, tmp_path, config):
    ingest.run(ingest.IngestConfig(source=str(tars), workers=1), str(tmp_path / "own"))
    command = [
        sys.executable, "-m", "blip_jax", "prepare", "--config=prepare",
        f"--workdir={tmp_path / 'beam'}", f"--config.source={tars}",
        f"--config.beam.runner={config.runner}",
        f"--config.beam.options={config.options}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    units = tmp_path / "beam" / "units"
    while process.poll() is None and len(list(units.glob("0*.json"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert content(tmp_path / "beam") == content(tmp_path / "own")


@needs_beam
def test_duplicates_are_the_same(tmp_path):
    looks = test_ingest_duplicates.planted(0, 300, 4)
    found = []
    for config in (BeamConfig(), TWO_PROCESSES):
        search = DuplicateSearch(str(tmp_path / f"search{len(found)}"), 4)
        search.write_hashes([(looks, looks)])
        engine = Engine(1, config, str(tmp_path / "beam"))
        finish_units("equal", [0], search.make_work, search.finished, engine)
        near = list(search.near_units)
        finish_units("near", near, search.make_work, search.finished, engine)
        found.append(search.result().columns(0, 300)[0].tolist())
    assert found[0] == found[1] and max(found[0]) > 0


@needs_beam
def test_assembling_writes_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_parts, "PART", 70)
    web = scored_dataset.build(tmp_path, ("judge",))
    found = []
    for name, options in (("own", ()), ("beam", (f"beam.runner={DIRECT.runner}", "workers=1"))):
        out, rules = tmp_path / name, test_assembly_units.RULES[:4]
        assert test_assembly_units.assemble(web, out, "gallery_images=9", *rules, *options) == 0
        found.append(test_assembly_units.content(out))
    assert found[0] == found[1]


@needs_beam
def test_capfilt_writes_the_same_rows(world, tmp_path):
    writer = tiny_dataset.trained(world, 0, tiny_dataset.PROMPT), str(tmp_path / "captioner")
    judge = tiny_dataset.trained(world, 1), str(tmp_path / "filter")
    paths = [tiny_dataset.save(*pair) for pair in (writer, judge)]
    settings = ScoringConfig(
        world.web, "train", "", (Decoding(max_length=16),), batch_size=1, shard_rows=16
    )
    found = []
    for name, config in (("own", None), ("direct", DIRECT), ("dask", DASK)):
        scoring = settings.__class__(**{**vars(settings), "output": str(tmp_path / name)})
        more = (config, functools.partial(load_models, paths)) if config else ()
        capfilt.run(scoring, *load_models(paths), lambda: None, *more)
        rows = {k: v for k, v in content(tmp_path / name).items() if "array_record" in k}
        found.append(rows)
    assert found[0] == found[1] == found[2] and len(found[0]) > 1


def load_models(paths):
    return [{name: (path, load(path))} for name, path in zip(("writer", "judge"), paths)]
