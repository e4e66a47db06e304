"""The bootstrap run on a tiny dataset: once, interrupted, and with two seeds."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from blip_jax import nn
from blip_jax.capfilt import bootstrap as boot
from blip_jax.capfilt import selection, storage
from blip_jax.capfilt.bootstrap import results, run
from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import load_mixture, load_selected
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import SignalHandler
from blip_jax.train.optimizer import WarmupCosine

WEB, TEST = 40, 8  # images
SIX = ("none", "filter", "captioner", "both", "random", "human")  # arms of the run `whole`
THRESHOLD = 0.0  # a filter that has learned next to nothing may judge all alike; all pass


def minute_config(**changes):
    """Trainings of three steps, of the smallest model, with all six arms."""
    model = nn.preset(
        "tiny",
        vit={"image_size": 16, "patch_size": 8, "width": 16, "heads": 4},
        med={"width": 16, "heads": 4, "mlp_dim": 32},
        embed_dim=8,
    )
    training = {
        "model": model, "batch_size": 16, "steps": 3, "log_every": 1,
        "data.augment": {"min_crop_area": 1.0, "flip": "none", "randaugment": False},
        "optimizer.schedule": WarmupCosine(peak_lr=3e-3, warmup_steps=1),
        "task.max_length": 24,
    }  # fmt: skip
    contrast = {"task.itc.queue_size": 16, "task.itm.group_size": 2}
    usual = boot.BootstrapConfig()
    config = replace(
        usual,
        world={
            "image_size": 16, "human_images": 12, "web_images": WEB, "test_images": TEST,
            "test_captions": 2,
        },
        pretraining=replace(usual.pretraining, **training, **contrast),
        captioner=replace(usual.captioner, **training),
        filter=replace(usual.filter, **training, **contrast),
        captioner_and_filter=replace(usual.captioner_and_filter, **training, **contrast),
        vocab_size=200, arms=SIX, gallery_images=5, threshold=THRESHOLD,
        capfilt={"batch_size": 2, "shard_rows": 16},
        **{"evaluation.task": {"gallery_size": TEST, "rerank_k": 3}},
    )  # fmt: skip
    return replace(config, **changes)


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


# The stages.


@pytest.mark.slow
def test_all_arms_are_evaluated_and_reported(whole):
    workdir, table = whole
    assert found(workdir)["arms"] == json.loads(json.dumps(table))
    assert [row["arm"] for row in table] == list(SIX)
    for row in table:
        assert all(np.isfinite(row[name]) for name in results.COLUMNS), row
    page = (workdir / "report.html").read_text()
    assert all(f">evaluate-{arm}<" in page for arm in SIX)
    names = [f"{kind}-{arm}" for kind in ("mixture", "pretrain", "evaluate") for arm in SIX]
    names += ["data", "captioner", "filter", "capfilt"]
    assert set(markers(workdir)) == {f"{name}.json" for name in names}


@pytest.mark.slow
def test_the_table_counts_the_texts_of_each_arm(whole):
    columns = storage.read(str(whole[0] / "scores"), "train")
    web = columns.where("origin", "web")
    good = columns.p_match[:, 0] >= THRESHOLD
    filtered, written = int((web & good).sum()), int((~web & good).sum())
    counts = {row["arm"]: (row["web texts"], row["synthetic texts"]) for row in whole[1]}
    assert counts == {
        "none": (WEB, 0), "filter": (filtered, 0), "captioner": (WEB, written),
        "both": (filtered, written), "random": (filtered, 0), "human": (0, 0),
    }  # fmt: skip


@pytest.mark.slow
def test_each_arm_is_trained_from_scratch_for_as_long(whole):
    workdir, _ = whole
    first = []
    for arm in SIX:
        rows = [json.loads(row) for row in open(workdir / f"pretrain-{arm}" / "metrics.jsonl")]
        assert [row["step"] for row in rows] == [1, 2, 3]
        first.append(rows[0]["temperature"])
    assert len(set(first)) == 1


@pytest.mark.slow
def test_a_second_call_does_nothing_again(whole, monkeypatch):
    workdir, table = whole
    before, numbers = markers(workdir), (workdir / "results.json").read_bytes()
    for name in ("train", "evaluate", "prepare", "train_tokenizer"):
        monkeypatch.setattr(run, name, lambda *args, **more: pytest.fail("done again"))
    monkeypatch.setattr(run.run, "run", lambda *args: pytest.fail("done again"))
    assert boot.bootstrap(minute_config(), str(workdir)) == table
    assert markers(workdir) == before
    assert (workdir / "results.json").read_bytes() == numbers


@pytest.mark.slow
def test_another_config_and_unknown_arms_are_refused(whole):
    workdir, _ = whole
    with pytest.raises(UserError, match=r"another run: config\.pretraining\.steps was \d+, now 4;"):
        boot.bootstrap(minute_config(**{"pretraining.steps": 4}), str(workdir))
    with pytest.raises(UserError, match="unknown arm 'all'; known: none, filter"):
        minute_config(arms=("all",))


@pytest.mark.slow
def test_a_workdir_can_be_moved(whole, tmp_path, monkeypatch):
    workdir, table = whole
    moved = shutil.copytree(workdir, tmp_path / "moved")
    aside = workdir.rename(workdir.parent / "aside")
    try:
        (moved / "stages" / "evaluate-human.json").unlink()
        assert boot.bootstrap(minute_config(), str(moved)) == table
    finally:
        aside.rename(workdir)


@pytest.mark.slow
def test_interrupted_and_called_again_is_uninterrupted(whole, tmp_path, monkeypatch):
    """In mid-CapFilt, in mid-training and in an evaluation. Other arms change no arm's numbers."""
    wanted, config = found(whole[0]), minute_config(arms=("none", "both"))
    write, shards = storage.write_shard, []

    def after_one(path, rows, *columns):
        if shards:
            raise KeyboardInterrupt
        shards.append(write(path, rows, *columns))

    def stop(*args, **more):
        raise KeyboardInterrupt

    train = run.train

    def two_steps(config, workdir):
        with monkeypatch.context() as patch:
            patch.setattr(SignalHandler, "should_stop", lambda self, step: step == 2)
            train(config, workdir)

    for module, name, broken, done in (
        (storage, "write_shard", after_one, "filter"),
        (run, "train", two_steps, "mixture-both"),
        (run, "evaluate", stop, "pretrain-both"),
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
    assert again == {"arms": arms, "differences": [], "orders": [], "filter": wanted["filter"]}
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_further_arms_share_the_stages_that_they_have_in_common(whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    before = set(markers(workdir))
    arms = ("both_beam_round2", "both_shared", "both_continued", "share_none", "perfect",
            "both_perturbed", "both_ensemble", "both_beam_cross_fitted")  # fmt: skip
    table = boot.bootstrap(minute_config(arms=arms), str(workdir))
    models = ["captioner-both_beam", "filter-both_beam", "captioner_and_filter", "filter-perturbed",
              "captioner-filter", "filter-filter", "captioner-first_half", "filter-first_half",
              "captioner-second_half", "filter-second_half"]  # fmt: skip
    names = [f"{kind}-{arm}" for kind in ("mixture", "pretrain", "evaluate") for arm in arms]
    names += [*models, "capfilt-both_beam-beam", "capfilt-shared", "capfilt-beam"]
    names += ["capfilt-perturbed", "capfilt-none+filter+both_beam-beam"]
    names += ["capfilt-first_half+second_half-beam"]
    # What the second round and cross-fitting start from.
    names += [f"{kind}-{arm}" for kind in ("mixture", "pretrain")
              for arm in ("both_beam", "first_half", "second_half")]  # fmt: skip
    assert set(markers(workdir)) - before == {f"{name}.json" for name in names}

    def training(folder):
        return json.loads((workdir / folder / "config.json").read_text())

    starts = {name: training(name)["init"]["run"] for name in (*models, "pretrain-both_continued")}
    assert {name: pathlib.Path(path).name for name, path in starts.items()} == {
        "captioner-both_beam": "pretrain-both_beam",
        "captioner-filter": "pretrain-filter",
        "filter-filter": "pretrain-filter",
        "captioner-first_half": "pretrain-first_half",
        "filter-first_half": "pretrain-first_half",
        "captioner-second_half": "pretrain-second_half",
        "filter-second_half": "pretrain-second_half",
        "filter-both_beam": "pretrain-both_beam",
        "captioner_and_filter": "pretrain-none",
        "filter-perturbed": "pretrain-none",
        "pretrain-both_continued": "pretrain-none",
    }
    assert training("pretrain-share_none")["model"]["med"]["sharing"] == "none"
    shares = [
        training(name)["task"]["itm"]["perturbed_share"] for name in ("filter", "filter-perturbed")
    ]
    assert shares == [0.0, 0.5]
    scores = storage.read(str(workdir / "scores-both_beam-beam"), "train")
    np.testing.assert_array_equal(
        scores.where("origin", "synthetic"), scores.where("method", "beam")
    )
    scores = storage.read(str(workdir / "scores-none+filter+both_beam-beam"), "train")
    assert scores.filters == ("filter", "filter-filter", "filter-both_beam")
    written = [scores.where("model", f"captioner{x}").sum() for x in ("", "-filter", "-both_beam")]
    assert len(set(written)) == 1 and written[0] > 0
    check_cross_fitted(workdir)
    columns = {row["arm"]: (row["web texts"], row["synthetic texts"]) for row in table}
    assert columns["share_none"] == (WEB, 0) and columns["perfect"] == (0, 0)
    assert min(columns["both_beam_round2"]) > 0
    origins = {row["origin"] for row in found(workdir)["filter"]}
    assert {"web", "synthetic", "web both_beam-beam", "synthetic shared"} <= origins


def check_cross_fitted(workdir):
    """The mixture of cross-fitted models has each image's texts by the other half's models."""
    component = load_mixture(str(workdir / "mixtures" / "both_beam_cross_fitted.json"))[-1]
    table = storage.read(component.scores, "train")
    selected = {tuple(x) for x in load_selected(component, len(table.key)).tolist()}
    kept = [(int(r), int(i)) in selected for r, i in zip(table.row, table.index, strict=True)]
    # Images of the first half have the models that were trained on the second.
    own = np.where(table.row < len(table.key) // 2, 1, 0)
    writers = np.array(["captioner-first_half", "captioner-second_half"])[own]
    is_allowed = table.where("origin", "web") | (np.array(table.model.to_pylist()) == writers)
    p_match = table.p_match[np.arange(len(own)), own]
    assert table.filters == ("filter-first_half", "filter-second_half")
    assert kept == (is_allowed & (p_match >= THRESHOLD)).tolist() and any(kept)
    halves = [load_mixture(str(workdir / "mixtures" / f"{name}_half.json"))[-1].split
              for name in ("first", "second")]  # fmt: skip
    assert halves == ["train[:50%]", "train[50%:]"]


# Several seeds.


@pytest.mark.slow
def test_two_seeds_give_mean_and_spread(whole, tmp_path):
    """Two finished runs, of which the second found other numbers."""
    for seed in (0, 1):
        folder = shutil.copytree(whole[0], tmp_path / f"seed-{seed}")
        fingerprint = json.loads((folder / "fingerprint.json").read_text())
        fingerprint["values"]["config"]["seeds"] = [seed]
        (folder / "fingerprint.json").write_text(json.dumps(fingerprint))
        for arm in SIX:
            path = folder / "stages" / f"evaluate-{arm}.json"
            marker = json.loads(path.read_text())
            del marker["digest"]  # by which a changed result is refused
            marker["result"] = {name: v + 2 * seed for name, v in marker["result"].items()}
            path.write_text(json.dumps(marker))
    table = boot.bootstrap(minute_config(seeds=(0, 1)), str(tmp_path))
    for row, one in zip(table, whole[1], strict=True):
        for column in results.COLUMNS:
            assert row[column] == pytest.approx((one[column] + 1, 2**0.5))
        assert row["web texts"] == one["web texts"]
    for entry in found(tmp_path)["filter"]:
        assert entry["precision"][1] == 0 and entry["count"] == WEB
    assert (tmp_path / "report.html").exists()


def test_each_seed_draws_its_own_world(tmp_path):
    built = [
        run.BootstrapRun(minute_config(), str(tmp_path), seed, {}).build("web") for seed in (0, 0)
    ]
    assert built[0] == built[1]
    other = run.BootstrapRun(minute_config(), str(tmp_path / "other"), 1, {}).build("web")
    first, second = (open_dataset(path, "train") for path in (built[0], other))
    assert all(first[row]["image"] != second[row]["image"] for row in range(WEB))


def test_rows_of_three_seeds():
    class FakeRun:
        def __init__(self, value):
            self.found = {"none": {"cider": value}}
            self.kept = {"none": {"web": int(value), "synthetic": 1}}

    config = minute_config(arms=("none",))
    (row,) = results.rows(config, [FakeRun(value) for value in (1.0, 2.0, 6.0)])
    assert row == {
        "arm": "none", "CIDEr": (3.0, pytest.approx(7**0.5)),
        "web texts": 3, "synthetic texts": 1,
    }  # fmt: skip
    (row,) = results.rows(config, [FakeRun(4.0)])
    assert row["CIDEr"] == 4.0


def test_the_threshold_is_the_papers_unless_it_is_said_otherwise():
    assert selection.THRESHOLD == boot.BootstrapConfig().threshold == 0.5
