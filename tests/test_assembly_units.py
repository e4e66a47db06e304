"""An assembly in units of work: the files of one unit, in all ways to run them, and its errors."""

import json
import math
import os
import re
import shutil
import sys

import numpy as np
import pytest
import scored_dataset

from blip_jax.capfilt import assembly_units, dataset_parts, share_limits
from blip_jax.cli.main import main
from blip_jax.runtime import work_units
from blip_jax.runtime.beam import UnitStopped
from blip_jax.runtime.worker_pool import num_workers, worker_pool

RULES = (
    "selection.shares.synthetic=0.4", "selection.calibration=fit", "threshold_sweep=0.3,0.7",
    "selection.source_weights=laion=0.5", "selection.max_texts_per_image=1",
    "selection.maximums=safety=1", "selection.duplicates=near",
)  # fmt: skip


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    return scored_dataset.build(folder, ("judge", "other"), 2, ("aesthetic", "safety"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(dataset_parts, "PART", 70)  # of 240 rows: four parts over three shards


def assemble(web, out, *options) -> int:
    argv = ["assemble", f"--workdir={out}", f"--config.scores={web.scores}"]
    return main([*argv, *(f"--config.{option}" for option in options)])


def content(out) -> dict[str, bytes]:
    """The files of an assembly; of the command in statistics.json, what is selected."""
    paths = [*out.glob("*.npy"), out / "mixture.json", out / "statistics.json"]
    paths += sorted((out / "report" / "data").iterdir())
    found = {path.name: path.read_bytes() for path in paths}
    options = rb' --(workdir|config\.workers|config\.beam\.\w+)=[^\s"]+'
    found["statistics.json"] = re.sub(options, b"", found["statistics.json"])
    assert not list(out.glob("parts-*"))  # what the units found
    return found


@pytest.mark.parametrize("rules", [(), RULES])
def test_parts_give_what_the_whole_gives(web, tmp_path, monkeypatch, rules):
    options = "gallery_images=20", *rules
    assert assemble(web, tmp_path / "parts", *options) == 0
    monkeypatch.setattr(dataset_parts, "PART", 1000)
    assert assemble(web, tmp_path / "whole", *options) == 0
    found, wanted = (content(tmp_path / name) for name in ("parts", "whole"))
    one, other = (json.loads(x.pop("statistics.json")) for x in (found, wanted))
    assert found == wanted and len(found) == (4 if rules else 3)
    assert_close(one, other)  # sums of floats are in another order
    assert sum(one["extra_scores"]["aesthetic"]["images"]) == scored_dataset.ROWS - 1


def assert_close(one, other):
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other):
            assert_close(*pair)
    elif isinstance(one, float) and isinstance(other, float):
        assert math.isclose(one, other, rel_tol=1e-12)
    else:
        assert one == other


def test_several_processes_write_the_same_files(web, tmp_path):
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        assert assemble(web, out, f"workers={workers}", "gallery_images=20", *RULES) == 0
        found.append(content(out))
    assert found[0] == found[1]


@pytest.mark.parametrize("work", ["_measure_work", "_select_work"])
def test_units_that_are_finished_are_kept(web, tmp_path, monkeypatch, capsys, work):
    """A run that is stopped resumes with the parts that are missing, and ends in the same files."""
    whole, calls, make = content_of_run(web, tmp_path / "whole"), [], getattr(assembly_units, work)

    def make_stopping(*arguments):
        run = make(*arguments)

        def stopping(number, should_continue):
            calls.append(number)
            if len(calls) == 3:
                raise UnitStopped
            run(number, should_continue)

        return stopping

    monkeypatch.setattr(assembly_units, work, make_stopping)
    out = tmp_path / "out"
    assert assemble(web, out, "workers=1", "gallery_images=20", *RULES) == 0  # as after SIGTERM
    assert "stopped after 140 of 240 rows; rerun the same command to resume" in (
        capsys.readouterr().err
    )
    assert assemble(web, out, "workers=1", "gallery_images=20", *RULES) == 0
    assert calls == [0, 1, 2, 2, 3]
    assert content(out) == whole


def content_of_run(web, out) -> dict[str, bytes]:
    assert assemble(web, out, "workers=1", "gallery_images=20", *RULES) == 0
    return content(out)


def test_other_rules_take_over_nothing_but_what_was_read(web, tmp_path, monkeypatch):
    """After a run that was stopped before its end, the files of its units are of no use."""
    out, wanted = tmp_path / "out", content_of_run(web, tmp_path / "whole")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("blip_jax.capfilt.mixture.save_mixture", stop)
        rules = [x.replace("laion=0.5", "laion=0.25") for x in RULES]
        assert assemble(web, out, "workers=1", "gallery_images=20", *rules) == 130
    kept = next(out.glob("parts-*"))
    assert len(list(kept.glob("*.arrow"))) == 4 and len(list(kept.glob("*.selected-*.json"))) == 4
    assert assemble(web, out, "workers=1", "gallery_images=20", *RULES) == 0
    assert content(out) == wanted


def test_rules_are_checked_before_the_scores_are_read(web, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work_units, "run_units", None)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    for option, named in (
        ("selection.minimums=clip=0.3", "there is no filter, extra score or measure 'clip'"),
        ("selection.source_weights=web=1", "no image has source 'web'; sources: laion, cc12m"),
        ("selection.filter_reduction=big", "there is no filter 'big'"),
        ("identify_languages=True", "py3langid is not installed"),
    ):
        assert assemble(web, tmp_path / "out", option) == 2
        assert named in capsys.readouterr().err


def test_folders_with_similar_names_are_left_alone(web, tmp_path):
    for name in ("parts-2024", "parts-of-a-book"):
        (tmp_path / name).mkdir()
    (tmp_path / "parts-list").write_text("bolt, nut")
    assert assemble(web, tmp_path) == 0
    assert {path.name for path in tmp_path.glob("parts-*")} == {
        "parts-2024", "parts-of-a-book", "parts-list"
    }  # fmt: skip


def test_a_damaged_shard_is_told(web, tmp_path, capsys):
    folder = tmp_path / "scored" / "scores"
    shutil.copytree(web.scores, folder)
    path = sorted(folder.glob("*.array_record-*"))[1]
    path.write_bytes(path.read_bytes()[:-40_000])
    damaged = scored_dataset.Scored(web.images, str(folder), web.true)
    for workers in (1, 2):
        options = f"workers={workers}", f"dataset={web.images}"
        assert assemble(damaged, tmp_path / "out", *options) == 2
        assert "its file is damaged" in capsys.readouterr().err


def test_a_killed_worker_is_told(web, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(assembly_units, "_select_work", _killing_work)
    assert assemble(web, tmp_path / "out", "workers=2") == 2
    assert "killed, perhaps for lack of memory" in capsys.readouterr().err


def _killing_work(*arguments):
    return lambda number, should_continue: os.kill(os.getpid(), 9)


@pytest.mark.parametrize("seed", range(20))
def test_limits_of_parts_are_those_of_a_sort(seed):
    """Of each length the highest, and of equal ones the first."""
    rng = np.random.default_rng(seed)
    size, share = rng.integers(0, 300), rng.choice([0.0, 0.1, 0.5, 0.77, 1.0])
    words, p_match = rng.integers(1, 6, size), rng.random(size)
    if seed % 2:
        p_match = p_match.round(1)
    cuts = np.sort(rng.integers(0, size + 1, 3))
    parts = list(zip(np.split(words, cuts), np.split(p_match, cuts)))
    ranked = [share_limits.rank_texts(*part) for part in parts]
    limits = share_limits.find_limits(lambda: ranked, share)
    found = np.concatenate([x.passes(*part) for x, part in zip(limits, parts, strict=True)])
    wanted = np.zeros(size, bool)
    for length in range(1, 6):
        own = np.flatnonzero(words == length)
        best = own[np.argsort(-p_match[own], kind="stable")]
        wanted[best[: math.ceil(share * len(own))]] = True
    np.testing.assert_array_equal(found, wanted)


def test_a_number_of_workers():
    assert num_workers(3) == 3
    assert num_workers(0) == len(os.sched_getaffinity(0))
    with worker_pool(1, _remember, "given") as pool:
        assert pool.submit(_remembered).result() == "given"


def _remember(value):
    os.environ["BLIP_JAX_TEST"] = value


def _remembered():
    return os.environ["BLIP_JAX_TEST"]
