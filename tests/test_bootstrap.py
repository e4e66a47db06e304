"""The circle: all of it on a minute world, once; interrupted; and with two seeds."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from blip_jax import bootstrap as boot
from blip_jax.bootstrap import circle, results
from blip_jax.bootstrap.config import ARMS
from blip_jax.bootstrap.stages import Stages
from blip_jax.capfilt import assemble, scores
from blip_jax.data.sources import load_view
from blip_jax.errors import UserError

WEB, TEST = 40, 8  # images
THRESHOLD = 0.297  # where about half pass a filter that has learned next to nothing


def minute_config(**changes):
    """Trainings of three steps, of the smallest model, with all six arms."""
    config = boot.defaults()
    config.world.update(
        image_size=16, human_images=12, web_images=WEB, test_images=TEST, test_captions=2
    )
    for task in ("pretrain", "captioner", "filter"):
        run = config[task]
        run.model.preset = "tiny"
        run.model.changes = {
            "vit": {"image_size": 16, "patch": 8, "width": 16, "heads": 4},
            "med": {"width": 16, "heads": 4, "mlp": 32, "context_width": 16},
            "embed": 8,
        }
        run.augment.update(crop=1.0, flip="none", randaugment=False)
        run.update(batch_size=16, max_length=24, steps=3, log_every=1)
        run.objectives.update(queue=16, negative_group=2)
        run.optimizer.update(name="cosine", lr=3e-3, warmup_steps=1, total_steps=3)
    config.update(vocab_size=200, arms=tuple(ARMS), gallery=5, threshold=THRESHOLD)
    config.capfilt.update(batch_size=2, shard_rows=16)
    config.evaluation.update(gallery=TEST, rerank=3)
    config.update(**changes)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of an uninterrupted run with all arms, and its table."""
    pytest.importorskip("pycocoevalcap")
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, boot.bootstrap(minute_config(), str(workdir))


def found(workdir):
    return json.loads((pathlib.Path(workdir) / "results.json").read_text())


def markers(workdir):
    return {path.name: path.stat().st_mtime_ns for path in workdir.glob("**/stages/*.json")}


# Stages.


def test_a_stage_is_done_once(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"number": len(calls)}

    for _ in range(2):
        stages = Stages(str(tmp_path), {"a": 1})
        assert stages.do("first", work, "a note") == {"number": 1}
    assert stages.do("second", lambda: None) == {}
    assert [(t["name"], t["note"]) for t in stages.times()] == [("first", "a note"), ("second", "")]
    assert all(time["seconds"] >= 0 for time in stages.times())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_stage_that_does_not_end_leaves_no_marker(tmp_path, error):
    def work():
        raise error

    stages = Stages(str(tmp_path), {})
    with pytest.raises(error):
        stages.do("first", work)
    assert stages.times() == []
    assert stages.do("first", lambda: {"done": True}) == {"done": True}


def test_another_config_is_refused_by_the_names_that_differ(tmp_path):
    config = {"seed": 0, "pretrain": {"steps": 3, "lr": 0.1}, "arms": ["none"]}
    Stages(str(tmp_path), config)
    Stages(str(tmp_path), dict(reversed(config.items())))  # the order does not matter
    other = {"pretrain": {"steps": 4, "lr": 0.1, "b1": 0.9}, "seed": 0, "arms": ["both"]}
    with pytest.raises(UserError, match=r"it differs in arms, pretrain\.b1, pretrain\.steps\)"):
        Stages(str(tmp_path), other)
    Stages(str(tmp_path), config)  # and nothing was overwritten


# The circle.


def test_all_arms_are_evaluated_and_reported(whole):
    workdir, table = whole
    assert found(workdir)["arms"] == json.loads(json.dumps(table))
    assert [row["arm"] for row in table] == list(ARMS)
    for row in table:
        assert all(np.isfinite(row[name]) for name in results.COLUMNS), row
    page = (workdir / "report.html").read_text()
    assert all(f">{arm}<" in page for arm in ARMS)
    names = [f"{kind}-{arm}" for kind in ("view", "pretrain", "evaluate") for arm in ARMS]
    names += ["data", "captioner", "filter", "capfilt"]
    assert set(markers(workdir)) == {f"{name}.json" for name in names}


def test_arms_train_on_the_texts_they_stand_for(whole):
    workdir, table = whole
    columns = scores.read(str(workdir / "scores"), "train")
    origin, good = np.array(columns.origin), columns.p_match >= THRESHOLD
    web, synthetic = origin == "web", origin == "synthetic"
    filtered = int((web & good).sum())
    assert 0 < filtered < WEB  # or this shows nothing
    counts = {row["arm"]: (row["web texts"], row["synthetic texts"]) for row in table}
    assert counts == {
        "none": (WEB, 0),
        "filter": (filtered, 0),
        "captioner": (WEB, int((synthetic & ~np.isnan(columns.p_match)).sum())),
        "both": (filtered, int((synthetic & good).sum())),
        "random": (filtered, 0),
        "human": (0, 0),
    }
    pairs = {
        arm: {tuple(pair) for pair in np.load(workdir / "views" / f"{arm}.npy").tolist()}
        for arm in ("filter", "captioner", "both", "random")
    }
    assert pairs["filter"] < pairs["both"] < pairs["captioner"]
    assert pairs["random"] != pairs["filter"] and len(pairs["random"]) == filtered
    for arm in ARMS:
        weights = {part.name: part.weight for part in load_view(str(workdir / f"views/{arm}.json"))}
        assert weights == ({"human": 1.0} if arm == "human" else {"human": 0.25, "web": 0.75})


def test_each_arm_is_trained_from_scratch_for_as_long(whole):
    workdir, _ = whole
    first = []
    for arm in ARMS:
        rows = [json.loads(row) for row in open(workdir / f"pretrain-{arm}" / "metrics.jsonl")]
        assert [row["step"] for row in rows] == [1, 2, 3]
        first.append(rows[0]["temperature"])
    assert len(set(first)) == 1


def test_a_second_call_does_nothing_again(whole, monkeypatch):
    workdir, table = whole
    before, numbers = markers(workdir), (workdir / "results.json").read_bytes()
    for name in ("train", "evaluate", "prepare", "train_wordpiece"):
        monkeypatch.setattr(circle, name, lambda *args, **more: pytest.fail("done again"))
    monkeypatch.setattr(circle.run, "run", lambda *args: pytest.fail("done again"))
    assert boot.bootstrap(minute_config(), str(workdir)) == table
    assert markers(workdir) == before
    assert (workdir / "results.json").read_bytes() == numbers


def test_another_config_and_unknown_arms_are_refused(whole):
    workdir, _ = whole
    with pytest.raises(UserError, match=r"it differs in pretrain\.steps\)"):
        config = minute_config()
        config.pretrain.steps = 4
        boot.bootstrap(config, str(workdir))
    with pytest.raises(UserError, match="unknown arm 'all'; known: none, filter"):
        boot.bootstrap(minute_config(arms=("all",)), str(workdir))


def test_a_workdir_can_be_moved(whole, tmp_path, monkeypatch):
    workdir, table = whole
    moved = shutil.copytree(workdir, tmp_path / "moved")
    aside = workdir.rename(workdir.parent / "aside")
    try:
        (moved / "stages" / "evaluate-human.json").unlink()
        assert boot.bootstrap(minute_config(), str(moved)) == table
    finally:
        aside.rename(workdir)


def test_interrupted_and_called_again_is_uninterrupted(whole, tmp_path, monkeypatch):
    """In mid-CapFilt, in mid-training and in an evaluation. Other arms change no arm's numbers."""
    wanted, config = found(whole[0]), minute_config(arms=("none", "both"))
    write, shards = scores.write_shard, []

    def after_one(path, rows):
        if shards:
            raise KeyboardInterrupt
        shards.append(write(path, rows))

    def stop(*args, **more):
        raise KeyboardInterrupt

    train = circle.train

    def two_steps(config, workdir):
        config.steps = 2
        train(config, workdir)
        raise KeyboardInterrupt

    for module, name, broken, done in (
        (scores, "write_shard", after_one, "filter"),
        (circle, "train", two_steps, "view-both"),
        (circle, "evaluate", stop, "pretrain-both"),
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, broken)
            boot.bootstrap(config, str(tmp_path))
        last = max(markers(tmp_path).items(), key=lambda item: item[1])[0]
        assert last == f"{done}.json"
    assert not (tmp_path / "results.json").exists()
    boot.bootstrap(config, str(tmp_path))
    again = found(tmp_path)
    arms = [row for row in wanted["arms"] if row["arm"] in config.arms]
    assert again == {"arms": arms, "filter": wanted["filter"]}
    assert (tmp_path / "report.html").stat().st_size > 10_000


# Several seeds.


def test_two_seeds_give_mean_and_spread(whole, tmp_path):
    config = minute_config(seeds=(0, 1), arms=("human",))
    (row,) = boot.bootstrap(config, str(tmp_path))
    wanted = next(row for row in found(whole[0])["arms"] if row["arm"] == "human")
    for column, name in results.COLUMNS.items():
        values = []
        for seed in (0, 1):
            marker = tmp_path / f"seed-{seed}" / "stages" / "evaluate-human.json"
            values.append(json.loads(marker.read_text())["result"][name])
        assert values[0] == wanted[column]  # seed 0 is the run with one seed
        mean, spread = row[column]
        assert mean == pytest.approx(np.mean(values))
        assert spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    quality = found(tmp_path)["filter"]
    assert [entry["texts"] for entry in quality] == list(scores.ORIGINS)
    assert all(len(entry["precision"]) == 2 for entry in quality)
    assert (tmp_path / "report.html").exists()
    digests = {os.listdir(tmp_path / f"seed-{seed}/data/shapes")[0] for seed in (0, 1)}
    assert len(digests) == 2  # each seed draws its own world


def test_rows_of_three_seeds():
    class Circle:
        def __init__(self, value):
            self.found = {"none": {"cider": value}}
            self.kept = {"none": {"web": int(value), "synthetic": 1}}

    config = minute_config(arms=("none",))
    (row,) = results.rows(config, [Circle(value) for value in (1.0, 2.0, 6.0)])
    assert row == {
        "arm": "none", "CIDEr": (3.0, pytest.approx(7**0.5)),
        "web texts": 3, "synthetic texts": 1,
    }  # fmt: skip
    (row,) = results.rows(config, [Circle(4.0)])
    assert row["CIDEr"] == 4.0


def test_the_threshold_is_the_papers_unless_it_is_said_otherwise():
    assert assemble.THRESHOLD == boot.defaults().threshold == 0.5
