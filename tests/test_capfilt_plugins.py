"""Captioners, filters and scores of images by name, in `capfilt` and in what follows it."""

import json
import shutil
import sys

import numpy as np
import pytest
import tiny_dataset

from blip_jax.capfilt import provenance, storage
from blip_jax.capfilt.table import reduce_filters
from blip_jax.cli.main import main
from blip_jax.data.datasets import open_dataset
from blip_jax.data.images import decode, limit_shorter_side
from blip_jax.runtime.lock import file_lock

# Scores that follow from pixels and texts alone, so that they can be computed again.
MODULE = """
calls = []

def writer(count=1, word="dark"):
    def caption(images):
        calls.append(len(images))
        assert all(x.dtype == "uint8" and x.shape[2:] == (3,) for x in images)
        made = [[f"{word} {x.mean():.3f}"] * count for x in images]
        return made if count > 1 else [texts[0] for texts in made]
    return caption

def judge(scale=100):
    def score(images, texts):
        assert all(own for own in texts)
        return [[min(len(text) / scale, 1) for text in own] for own in texts]
    return score

def bright():
    return lambda images: [x.mean() for x in images]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The current folder, with the module of the plug-ins."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "mine.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [x for x in sys.path if x])
        yield folder
    sys.modules.pop("mine", None)


def capfilt(world, workdir, *options) -> int:
    argv = ["capfilt", f"--workdir={workdir}", f"--config.dataset={world.web}"]
    argv += ["--config.batch_size=1", "--config.shard_rows=8"]
    return main([*argv, *(f"--config.{x}" for x in options)])


PLUGINS = (
    "captioners=mine:writer?count=2&word=so,other=mine:writer",
    "filters=judge=mine:judge,loud=mine:judge?scale=1000",
    "extra_scores=light=mine:bright",
)


@pytest.fixture(scope="module")
def scored(world, folder):
    """The folder of a run with plug-ins alone."""
    assert capfilt(world, folder / "run", *PLUGINS) == 0
    return folder / "run"


def test_of_hosts_that_share_the_work_one_writes_the_mixture(world, scored, capsys):
    options = (*PLUGINS, f"human_dataset={world.human}")
    with file_lock(scored / "mixture.json", "capfilt"):
        assert capfilt(world, scored, *options) == 0
    assert "another process counts the texts" in capsys.readouterr().err
    assert not (scored / "mixture.json").exists()
    assert capfilt(world, scored, *options) == 0
    assert (scored / "mixture.json").exists()
    assert not list(scored.glob("parts-*"))


@pytest.fixture(scope="module")
def table(scored):
    return storage.read(str(scored / "scores"), "train")


def test_results_are_stored_under_their_names(world, table):
    assert (table.filters, table.extra_names) == (("judge", "loud"), ("light",))
    images = open_dataset(world.web, "train")
    for row in range(tiny_dataset.ROWS):
        own = table.row == row
        texts = [table.text[i].as_py() for i in np.flatnonzero(own)]
        if row == tiny_dataset.BROKEN:
            assert np.isnan(table.extra_scores[row]) and len(texts) == 1
            assert np.isnan(table.p_match[own]).all()
            continue
        mean = decode(images[row]["image"]).mean()
        assert table.extra_scores[row, 0] == pytest.approx(mean, rel=1e-6)
        assert texts[1:] == [f"so {mean:.3f}"] * 2 + [f"dark {mean:.3f}"]
        expected = [[len(x) / 100, len(x) / 1000] for x in texts]
        if row == tiny_dataset.EMPTY:
            expected[0] = [np.nan, np.nan]
        np.testing.assert_allclose(table.p_match[own], expected, rtol=1e-6)
    assert table.model.to_pylist()[:4] == ["", "mine", "mine", "other"]
    assert np.isnan(table.cosine).all() and np.isnan(table.log_probability).all()


def test_provenance_names_plugins_and_their_code(scored):
    found = provenance.read(str(scored / "scores"))
    roles = "captioners", "filters", "extra_scores"
    names = [[x["name"] for x in found[role]] for role in roles]
    assert names == [["mine", "other"], ["judge", "loud"], ["light"]]
    assert found["filters"][1]["path"] == "mine:judge?scale=1000"
    hashes = {x["sha256"] for role in roles for x in found[role]}
    assert len(hashes) == 1 and len(hashes.pop()) == 64


@pytest.mark.parametrize("runner", ["DirectRunner", "DaskRunner"])
def test_runners_of_beam_write_the_same_rows(world, scored, folder, runner, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setenv("PYTHONPATH", str(folder))  # of the workers
    beam = f"beam.runner={runner}"
    assert capfilt(world, folder / runner, *PLUGINS, beam) == 0
    shards = sorted(x.name for x in (scored / "scores").glob("*.array_record*"))
    for name in shards:
        own, other = (x / "scores" / name for x in (scored, folder / runner))
        assert own.read_bytes() == other.read_bytes()
    assert len(shards) > 1


def test_limits_of_scores_select(scored, table, folder):
    argv = ["assemble", f"--workdir={folder / 'chosen'}", "--config.gallery_images=1"]
    argv += [f"--config.scores={scored / 'scores'}", "--config.selection.filter_reduction=judge"]
    light = float(np.nanmedian(table.extra_scores))
    limits = {
        "thresholds.web": 0.0,
        "thresholds.synthetic": 0.0,
        "minimums": "loud=0.02",
        "maximums": f"light={light}",
    }
    assert main([*argv, *(f"--config.selection.{k}={v}" for k, v in limits.items())]) == 0
    rows, loud = table.extra_scores[table.row, 0], table.p_match[:, 1]
    statistics = json.loads((folder / "chosen" / "statistics.json").read_text())
    decided = {x["decision"]: x["web"] + x["synthetic"] for x in statistics["decisions"]}
    assert decided["kept"] == ((loud >= np.float32(0.02)) & (rows <= light)).sum() > 0
    assert decided["loud below its minimum"] == (loud < np.float32(0.02)).sum() > 0
    assert decided["light above its maximum"] == (
        (loud >= np.float32(0.02)) & (rows > light)
    ).sum() > 0  # fmt: skip
    assert "loud below its minimum" in (folder / "chosen/report/index.html").read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "minimums=lout=1",
            "no filter, extra score or measure 'lout'; did you mean 'loud'?",
        ),
        ("maximums=light", "maximums has 'light'; expected NAME=NUMBER, as in clip=0.28"),
        ("minimums=light=nan", "minimums has 'light=nan'; expected NAME=NUMBER"),
        ("min_cosine=0", "min_cosine needs a filter that is a model; plug-ins give no cosine"),
    ],
)
def test_limits_that_cannot_be(scored, folder, capsys, option, message):
    argv = ["assemble", f"--workdir={folder / 'none'}", f"--config.scores={scored / 'scores'}"]
    assert main([*argv, f"--config.selection.{option}"]) == 2
    assert message in capsys.readouterr().err and not (folder / "none" / "mixture.json").exists()


def test_a_plugin_that_failed_is_corrected_and_the_run_resumed(
    world, scored, folder, capsys, monkeypatch
):
    """Shards that were done before stay, and the rows are those of a run without a failure."""
    monkeypatch.syspath_prepend(str(folder))
    # The first call of the second shard.
    failing = MODULE.replace("calls.append", "len(calls) == 2 and 1 / 0; calls.append")
    sys.modules.pop("mine", None)
    (folder / "mine.py").write_text(failing)
    assert capfilt(world, folder / "again", *PLUGINS) == 2
    message = capsys.readouterr().err
    assert "captioner plug-in 'mine' (mine:writer?count=2&word=so) failed on a batch of" in message
    assert "(ZeroDivisionError: division by zero); correct it" in message
    assert message.count("\n") == 1 and "Traceback" not in message
    assert len(list((folder / "again" / "scores").glob("*array_record*"))) == 1
    sys.modules.pop("mine", None)
    (folder / "mine.py").write_text(MODULE)
    assert capfilt(world, folder / "again", *PLUGINS) == 0
    for path in (scored / "scores").glob("*array_record*"):
        assert (folder / "again" / "scores" / path.name).read_bytes() == path.read_bytes()
    other = [x.replace("scale=1000", "scale=2000") for x in PLUGINS]
    assert capfilt(world, folder / "again", *other) == 2
    assert "another run: filters.loud.plugin was" in capsys.readouterr().err


@pytest.mark.slow
def test_models_and_plugins_score_the_same_texts(world, folder, table):
    """A model's scores do not depend on whether there are plug-ins."""
    path = tiny_dataset.save(tiny_dataset.trained(world, 1), str(folder / "model"))
    both = f"filters=model={path},judge=mine:judge"
    assert capfilt(world, folder / "both", both, *PLUGINS[2:]) == 0
    assert capfilt(world, folder / "alone", f"filters=model={path}") == 0
    found, alone = (storage.read(str(folder / x / "scores"), "train") for x in ("both", "alone"))
    np.testing.assert_array_equal(found.p_match[:, 0], alone.p_match[:, 0])
    np.testing.assert_array_equal(found.p_match[:, 1], table.p_match[table.index == 0, 0])
    assert (found.tokens == alone.tokens).all() and found.tokens.max() > 2
    assert np.isnan(found.cosine[:, 1]).all()
    np.testing.assert_array_equal(reduce_filters(found, "cosine", "mean"), alone.cosine[:, 0])
    features = (folder / "alone" / "scores" / "features.json").read_text()
    assert "extra_scores" not in features  # datasets without plug-ins are as before


def test_pictures_are_limited_by_their_shorter_side():
    picture = np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)
    assert limit_shorter_side(picture, 20).shape == (20, 45, 3)
    assert limit_shorter_side(picture, 40) is picture


BROKEN = """
import not_installed_anywhere
"""
ODD = """
number = 5
def returns_nothing(): pass
def raises(): raise KeyError("a key\\nof two lines")
def make(model): return print
"""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "no_such:make",
            "is not found: there is no module 'no_such'; check its name, and",
        ),
        ("odd.sub:make", "is not found: there is no module 'odd.sub'; check its name"),
        ("broken:make", "needs the module 'not_installed_anywhere'; install it"),
        ("damaged:make", "cannot be imported (SyntaxError: "),
        ("odd:mak", "is not found: odd has no function 'mak'; did you mean 'make'?"),
        ("odd:number", "is no function but a value of type int; name a function"),
        (
            "odd:returns_nothing",
            "cannot be called: returns_nothing() returned a value of",
        ),
        ("odd:raises", "cannot be made: raises() failed (KeyError: 'a key"),
        ("odd:make", "cannot be made: make() failed (TypeError: make() missing 1 required"),
        ("odd:make?modle=a", "cannot be made: make(modle='a') failed (TypeError: make() got an"),
        (
            "odd:make?model",
            "plug-in 'odd:make?model' has the option 'model'; expected OPTION",
        ),
    ],
)
def test_plugins_that_cannot_be(world, tmp_path, monkeypatch, capsys, entry, message):
    for name, text in (("broken", BROKEN), ("odd", ODD), ("damaged", "def f(:")):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert capfilt(world, tmp_path / "run", f"filters={entry}") == 2
    found = capsys.readouterr().err
    assert message in found and found.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["filters=a=mine:judge,a=mine:judge"], "two filters are called 'a'; name them: A=mine:"),
        (["filters=a=mine:judge", "extra_scores=a=mine:bright"], "a filter and an extra score are"),
        (
            ["filters=mine:judge", "extra_scores=runs/a"],
            "extra_scores has 'runs/a'; expected a",
        ),
        (
            ["filters=mine:judge", "plugin_image_size=-1"],
            "plugin_image_size is -1; it must be 0",
        ),
    ],
)
def test_names_that_would_be_taken_twice(world, folder, capsys, options, message):
    assert capfilt(world, folder / "twice", *options) == 2
    assert message in capsys.readouterr().err


def test_copies_of_scores_are_read_without_provenance(scored, tmp_path):
    """Names are lost with provenance.json, scores are not."""
    copy = shutil.copytree(scored / "scores", tmp_path / "scores")
    (copy / provenance.FILE).unlink()
    table = storage.read(str(copy), "train")
    assert table.filters == ("filter-0", "filter-1") and table.extra_names == ("extra-0",)
