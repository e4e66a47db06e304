"""Mixtures, statistics and reports that are assembled from scores."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import scored_dataset
import tiny
import tiny_dataset

from blip_jax.capfilt import mixture, selection, storage
from blip_jax.cli.main import main
from blip_jax.data.mixture import Component, RecordSource, load_mixture
from blip_jax.data.pipeline import SKIP_REASONS, crc32_hash, train_batches
from blip_jax.data.text import clean_caption
from blip_jax.metrics import filtering
from blip_jax.runtime.files import nan_to_null
from blip_jax.runtime.fingerprint import check_fingerprint
from blip_jax.tasks.pretraining import PretrainingConfig

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def web(world):
    """The world's web, scored, in the folder of the world."""
    return scored_dataset.build(pathlib.Path(world.folder) / "scored")


@pytest.fixture(scope="module")
def columns(web):
    return storage.read(web.scores, "train")


def compose(world, web, columns, kept, share=0.25, folder="mixtures", **options):
    path = f"{world.folder}/{folder}/kept.json"
    source = mixture.ScoredDataset(web.images, "train", web.scores)
    human = Component("human", world.human)
    return path, mixture.write_mixture(path, human, source, columns, kept, share, **options)


def stream(world, path, count=20):
    config = tiny.config(med={"vocab_size": world.tokenizer.ids.vocab_size, "max_length": 24})
    task = PretrainingConfig(max_length=24, itc=None, itm=None).make(config, world.tokenizer)
    batches = train_batches(path, task, batch_size=8)
    batches = [next(batches) for _ in range(count)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


# The mixture.


def test_the_mixture_holds_the_kept_texts_in_the_wanted_share(world, web, columns):
    kept = mixture.select_by_threshold(columns, storage.ORIGINS, 0.97)
    path, counts = compose(world, web, columns, kept)
    assert 10 < sum(counts.values()) == kept.sum() < 90 and min(counts.values()) > 0
    found = stream(world, path)
    assert found["valid"].all()
    people = {crc32_hash(f"human-train-{row:07d}") for row in range(12)}
    assert np.isin(found["group"], list(people)).mean() == 0.25
    texts, keys = columns.text.to_pylist(), columns.key.to_pylist()
    wanted = {
        (crc32_hash(keys[columns.row[place]]), crc32_hash(clean_caption(texts[place])))
        for place in np.flatnonzero(kept)
    }
    pairs = set(zip(found["group"].tolist(), found["text_group"].tolist()))
    assert {pair for pair in pairs if pair[0] not in people} == wanted


def test_all_texts_can_be_kept(world, web, columns):
    everything = mixture.select_by_threshold(columns, storage.ORIGINS, None)
    _, counts = compose(world, web, columns, everything, folder="everything")
    assert counts == {"web": scored_dataset.ROWS - 2, "synthetic": scored_dataset.ROWS - 2}


def test_an_empty_selection_leaves_the_human_pairs(world, web, columns):
    nothing = mixture.select_by_threshold(columns, storage.ORIGINS, 1.1)
    path, counts = compose(world, web, columns, nothing, folder="nothing")
    assert counts == {"web": 0, "synthetic": 0}
    (component,) = load_mixture(path)
    assert component.name == "human" and component.weight == 1.0
    assert stream(world, path, 3)["valid"].all()


def test_the_plain_mixture_takes_both_as_they_are(world):
    path = f"{world.folder}/plain/none.json"
    human, web = Component("human", world.human), Component("web", world.web)
    mixture.write_plain_mixture(path, human, web, 0.25)
    found = stream(world, path)
    skipped = {
        crc32_hash(f"web-train-{row:07d}") for row in (tiny_dataset.BROKEN, tiny_dataset.EMPTY)
    }
    assert not skipped & set(found["group"][found["valid"]].tolist())
    reasons = {SKIP_REASONS[code] for code in found["skip_reason"][~found["valid"]].tolist()}
    assert reasons == {"undecodable image", "empty text"}
    mixture.write_plain_mixture(path, human, None, 1.0)
    assert [component.name for component in load_mixture(path)] == ["human"]


def test_weights_of_images_make_components(world, web, columns):
    """An image of weight 2 is drawn twice as often as one of weight 1."""
    kept = mixture.select_by_threshold(columns, storage.ORIGINS, None)
    weights = np.where(np.arange(scored_dataset.ROWS) < 60, 2.0, 1.0)
    path, _ = compose(world, web, columns, kept, folder="weighted", weights=weights)
    human, heavy, light = load_mixture(path)
    assert human.weight == 0.25 and heavy.weight + light.weight == pytest.approx(0.75)
    sizes = [len(RecordSource(component)) for component in (heavy, light)]
    assert sum(sizes) == kept.sum() and sizes[0] == (kept & (columns.row < 60)).sum()
    each = [component.weight / size for component, size in zip((heavy, light), sizes)]
    assert each[0] == pytest.approx(2 * each[1])


def test_a_mixture_moves_with_its_data(world, web, columns, tmp_path):
    path, _ = compose(
        world, web, columns, mixture.select_by_threshold(columns, storage.ORIGINS, None)
    )
    wanted = stream(world, path, 4)
    there = str(tmp_path / "there")
    shutil.copytree(world.folder, there)
    moved = path.replace(world.folder, there)
    assert world.folder not in json.dumps(
        [dataclasses.asdict(component) for component in load_mixture(moved)]
    )
    found = stream(world, moved, 4)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


# The verb.


def run(web, folder, *options):
    config = ROOT / "configs" / "assemble.py"
    given = [f"--config={config}", f"--workdir={folder}", f"--config.scores={web.scores}"]
    return main(["assemble", *given, *options])


def test_the_paper_is_the_default(web, columns, tmp_path, capsys):
    assert run(web, tmp_path, "--config.gallery_images=0") == 0
    (component,) = load_mixture(str(tmp_path / "mixture.json"))
    assert pathlib.Path(component.dataset).samefile(web.images) and component.weight == 1
    kept = columns.scored & (columns.p_match[:, 0] >= 0.5)
    pairs = {tuple(pair) for pair in np.load(component.selected).tolist()}
    assert pairs == set(zip(columns.row[kept].tolist(), columns.index[kept].tolist()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "config.json", "croissant.json", "fingerprint.json",
        pathlib.Path(component.selected).name,
        "mixture.json", "statistics.json",
    ]  # fmt: skip
    out, err = capsys.readouterr()
    assert f"mixture to train on: {tmp_path / 'mixture.json'}" in out
    assert "skipped 1: undecodable image: no bytes" in err


def test_a_mixture_is_whole_until_another_replaces_it(web, tmp_path, monkeypatch):
    assert run(web, tmp_path, "--config.gallery_images=0") == 0
    before = load_mixture(str(tmp_path / "mixture.json"))
    content = np.load(before[0].selected)
    higher = "--config.selection.thresholds.web=0.9"

    def killed(path, components):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mixture, "save_mixture", killed)
        mixture.write_mixture(
            str(tmp_path / "mixture.json"), None, *_scored(web), human_fraction=0.0
        )
    assert load_mixture(str(tmp_path / "mixture.json")) == before
    np.testing.assert_array_equal(np.load(before[0].selected), content)
    assert run(web, tmp_path, "--config.gallery_images=0", higher) == 0
    (after,) = load_mixture(str(tmp_path / "mixture.json"))
    assert [str(path) for path in tmp_path.glob("*.npy")] == [after.selected]
    assert len(np.load(after.selected)) < len(content)


def _scored(web):
    """Returns the scored dataset, its table and another choice of texts."""
    table = storage.read(web.scores, "train")
    kept = mixture.select_by_threshold(table, storage.ORIGINS, None)
    return mixture.ScoredDataset(web.images, "train", web.scores), table, kept


def test_a_folder_of_another_verb_is_refused(web, tmp_path, capsys):
    check_fingerprint(tmp_path, "train", {}, begun=False)
    assert run(web, tmp_path) == 2
    assert f"{tmp_path} holds a run of blip-jax train" in capsys.readouterr().err


def test_every_text_is_counted_once(web, tmp_path):
    options = [
        "origins=web,synthetic", "gallery_images=0", "selection.thresholds.web=0.3",
        "selection.max_texts_per_image=1", "selection.min_cosine=0.0",
        "selection.duplicates=near", "selection.source_weights=laion=0.5",
    ]  # fmt: skip
    assert run(web, tmp_path, *(f"--config.{option}" for option in options)) == 0
    found = json.loads((tmp_path / "statistics.json").read_text())
    for origin, count in (("web", scored_dataset.ROWS), ("synthetic", scored_dataset.ROWS - 1)):
        assert sum(row[origin] for row in found["decisions"]) == count
    decisions = {row["decision"] for row in found["decisions"]}
    unused = {"origin left out", "source left out", "language left out"}
    unused |= {"not in the best share of its length"}
    assert decisions == set(selection.DECISIONS) - unused
    parts = load_mixture(str(tmp_path / "mixture.json"))
    kept = sum(row["kept"] for row in found["texts"])
    assert (
        kept == sum(len(RecordSource(part)) for part in parts) == found["images"]["with_kept_text"]
    )
    assert sum(row["kept"] for row in found["sources"]) == kept
    assert found["images"]["duplicates"] == {"exact": 10, "near": 10}
    assert {row["license"]: row["count"] for row in found["licenses"]} == {
        "CC BY 4.0": 160, "CC BY-SA 4.0": 159, "unknown": 160
    }  # fmt: skip
    histogram = found["scores"]["p_match"]
    assert sum(histogram["web"]) == scored_dataset.ROWS - 2
    assert sum(histogram["synthetic"]) == scored_dataset.ROWS - 2


def test_a_sweep_is_the_curve_of_the_filter(web, columns, tmp_path):
    """Stored scores give the precision and recall that the filter has on the Shapes dataset."""
    thresholds = np.linspace(0, 1, 21).round(2)
    options = [
        f"--config.threshold_sweep={tuple(thresholds.tolist())}",
        "--config.gallery_images=0",
    ]
    assert run(web, tmp_path, *options) == 0
    found = json.loads((tmp_path / "statistics.json").read_text())["sweep"]
    for origin in storage.ORIGINS:
        own = columns.where("origin", origin)
        wanted = filtering.curve(columns.p_match[own, 0], web.true[own], thresholds)
        rows = [row for row in found if row["origin"] == origin]
        assert [row["threshold"] for row in rows] == wanted["thresholds"]
        assert [row["recall"] for row in rows] == wanted["recall"]
        assert [row["kept_share"] for row in rows] == wanted["kept_share"]
        assert [row["precision"] for row in rows] == nan_to_null(wanted["precision"])
        assert 0.3 < rows[0]["precision"] < rows[10]["precision"] or origin == "synthetic"
        assert rows[10]["recall"] > 0.7


def test_thresholds_mean_what_they_say_once_calibrated(web, tmp_path):
    """From the known truth, or from the statistics of another assembly."""
    found = {}
    for name, options in {
        "as scored": [],
        "fitted": ["--config.selection.calibration=fit"],
        "taken over": [f"--config.selection.calibration={tmp_path}/as scored/statistics.json"],
        "and over": [f"--config.selection.calibration={tmp_path}/taken over/statistics.json"],
    }.items():
        assert run(web, tmp_path / name, "--config.gallery_images=0", *options) == 0
        found[name] = json.loads((tmp_path / name / "statistics.json").read_text())
    assert found["as scored"]["selection"]["calibration"] == {}
    assert found["fitted"]["selection"]["calibration"] == found["as scored"]["truth"]["fit"]
    truth = {row["origin"]: row["noise_share"] for row in found["fitted"]["truth"]["rows"]}
    assert truth.keys() == set(storage.ORIGINS)
    for row in found["fitted"]["texts"]:
        assert row["mean_p_match"] == pytest.approx(1 - truth[row["origin"]], abs=0.02)
    for name in ("taken over", "and over"):
        assert found[name]["texts"] == found["fitted"]["texts"]
        assert found[name]["selection"] == found["fitted"]["selection"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["selection.calibration=README.md"], "README.md is not a JSON file: Exp"),
        (["scores="], "config.scores is empty"),
        (["scores=/nowhere", "dataset=WEB"], "no dataset in /nowhere"),
        (
            ["selection.thresholds.web=1.1", "selection.thresholds.synthetic=1.1"],
            "the rules keep no text: P(match)",
        ),
        (["origins=('webb',)"], "unknown origin 'webb'"),
        (
            ["selection.source_weights=laion"],
            "config.selection: source_weights has 'laion'; expected SOURCE=NUMBER",
        ),
        (
            ["selection.filter_reduction=other"],
            "there is no filter 'other'; expected one of mean, min, judge",
        ),
        (["split=test"], "no split 'test'"),
        (["selection.languages=english"], "selection.languages has 'english'; "),
    ],
)
def test_a_wrong_call_is_one_line(web, tmp_path, capsys, options, named):
    options = [f"--config.{option}".replace("WEB", web.images) for option in options]
    assert run(web, tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error


def test_rules_that_keep_nothing_are_named(web, tmp_path, capsys):
    options = ["origins=web", "gallery_images=0", "selection.min_cosine=0.9999"]
    assert run(web, tmp_path, *(f"--config.{option}" for option in options)) == 2
    assert re.search(r"the rules keep no text: .*cosine.* [\d,]+", capsys.readouterr().err)


def test_scores_in_a_folder_below_and_unfinished_ones_are_named(web, tmp_path, capsys):
    scores = tmp_path / "run" / "scores"
    shutil.copytree(web.scores, scores)
    argv = ["assemble", f"--workdir={tmp_path / 'out'}"]
    assert main([*argv, f"--config.scores={tmp_path / 'run'}"]) == 2
    assert f"has no scores; did you mean {scores}?" in capsys.readouterr().err
    (scores / "features.json").unlink()
    assert main([*argv, f"--config.scores={scores}"]) == 2
    assert "is not complete; rerun its blip-jax capfilt first" in capsys.readouterr().err
