"""CapFilt refuses what it cannot do, before anything is written, and what would mix two runs."""

import dataclasses
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_dataset

from blip_jax.capfilt import resume, run, storage
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.capfilt.generate import CaptionScorer
from blip_jax.data.synthetic.builder import make_record
from blip_jax.decoding import Decoding
from blip_jax.models import Model
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import FILE

ROWS = 4


def records(seed: int = 0):
    return [make_record(row + seed, "train", tiny_dataset.WEB) for row in range(ROWS)]


@pytest.fixture(scope="module")
def models(world):
    """A captioner and a filter; no test computes with them."""
    return [{name: (f"runs/{name}", tiny_dataset.trained(world, seed))}
            for seed, name in enumerate(("writer", "judge"))]  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    images = tiny_dataset.write(str(tmp_path / "web"), records())
    decoding = Decoding(max_length=16)
    output = str(tmp_path / "scores")
    options = {"batch_size": 1, "shard_rows": 2, "lease_seconds": 0.5}
    return ScoringConfig(images, "train", output, (decoding,), **options)


@pytest.fixture
def scorer(monkeypatch):
    """Rows without scores instead of what the models compute."""

    def rows(self, batches):
        for batch in batches:
            yield [{"key": x["key"], "status": "ok", "texts": []} for x in batch]

    monkeypatch.setattr(CaptionScorer, "rows", rows)


def changed(model: Model, **changes) -> Model:
    params = changes.pop("params", model.params)
    described = {"prompt": model.prompt, "max_length": model.max_length, **changes}
    return Model(params, described.pop("config", model.config), model.tokenizer, **described)


def broken(model: Model) -> Model:
    """The model with one NaN among its weights."""
    leaves, structure = jax.tree.flatten(model.params)
    leaves[-1] = np.where(np.arange(leaves[-1].size).reshape(leaves[-1].shape), leaves[-1], np.nan)
    return changed(model, params=jax.tree.unflatten(structure, leaves))


def refusal(settings, captioners, filters) -> str:
    """The message, after a look that the run left nothing behind."""
    with pytest.raises(UserError) as error:
        run.run(settings, captioners, filters, lambda: pytest.fail("has begun"))
    assert not os.path.exists(settings.output)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_are_not_finite_name_their_model(settings, models):
    writer, judge = models
    bad = {"judge": ("runs/judge", broken(judge["judge"][1]))}
    found = refusal(settings, writer, bad)
    assert found.startswith("filter 'judge' (runs/judge) has weights that are NaN or infinite ([")
    bad = {"writer": ("runs/writer", broken(writer["writer"][1]))}
    assert refusal(settings, bad, judge).startswith("captioner 'writer' (runs/writer) has weights")


def test_models_in_the_wrong_place_are_named(world, settings, models):
    for role, model_type, message in (
        ("captioner", "retrieval", "captioner 'm': a retrieval model cannot caption; load a"),
        ("filter", "captioner", "filter 'm': a captioner model cannot match; load a"),
        ("filter", "features", "filter 'm': a features model cannot match; load a"),
    ):
        own = {"m": ("runs/m", tiny_dataset.trained(world, 0, "", model_type))}
        given = (own, models[1]) if role == "captioner" else (models[0], own)
        assert refusal(settings, *given).startswith(message)
    assert refusal(settings, models[0], {}) == "capfilt needs a filter to score texts; name one"


def test_options_that_a_model_cannot_have_leave_nothing(settings, models):
    long = (Decoding(max_length=tiny_dataset.LENGTH + 1),)
    assert "max_length" in refusal(dataclasses.replace(settings, decodings=long), *models)


def test_a_filter_that_gives_nan_is_named(settings, models, monkeypatch):
    """Its weights are finite, its scores are not; a right one can take its place."""
    function = type("Function", (), {"dispatch": lambda *unused: None})()

    def collect(unused):
        return np.full((8, 1, 2), np.nan, np.float32), np.zeros((8, 1), np.float32)

    function.collect = collect
    monkeypatch.setattr("blip_jax.capfilt.generate.match_function", lambda model: function)
    message = "filter 'judge' gives NaN for image 'web-train-000000[02]'; check whether the model"
    with pytest.raises(UserError, match=message):
        run.run(settings, {}, models[1])
    assert not storage.has_shards(settings.output)
    monkeypatch.undo()
    other = {"other": models[1]["judge"]}
    run.run(settings, {}, other)
    assert storage.read(settings.output, "train").filters == ("other",)


@pytest.mark.parametrize("what", ["dataset", "dtype", "filter", "tokenizer", "order", "prompt"])
def test_a_resumed_run_is_the_same_run(world, settings, models, scorer, tmp_path, what):
    writer, judge = models
    both = {**judge, "second": judge["judge"]}
    run.run(settings, writer, both)
    shard = storage.shard_path(settings.output, "train", 1, 2)
    shard.unlink()
    before = {path: path.read_bytes() for path in pathlib.Path(settings.output).glob("*")
              if path.is_file()}  # fmt: skip
    model, expected = judge["judge"][1], ""
    if what == "dataset":  # other images of the same keys and number
        own = [{**x, "key": y["key"]} for x, y in zip(records(8), records(), strict=True)]
        shutil.rmtree(settings.dataset)
        tiny_dataset.write(settings.dataset, own)
        expected = "dataset.images was "
    elif what == "dtype":
        config = dataclasses.replace(model.config, dtype="bfloat16")
        both["judge"] = "elsewhere", changed(model, config=config)
        expected = 'filters.judge.model.dtype was "float32", now "bfloat16";'
    elif what == "filter":
        both["judge"] = "runs/judge", tiny_dataset.trained(world, 5)
        expected = "filters.judge.sha256 was "
    elif what == "tokenizer":
        other = changed(model)
        other.tokenizer = type("Other", (), {"digest": "sha256 0"})()
        both["judge"] = "runs/judge", other
        expected = "filters.judge.tokenizer was "
    elif what == "order":
        both = dict(reversed(both.items()))
        expected = 'filters.names was ["judge", "second"], now ["second", "judge"]'
    else:
        writer = {"writer": ("runs/writer", changed(writer["writer"][1], prompt="a "))}
        expected = 'captioners.writer.prompt was "", now "a ";'
    with pytest.raises(UserError) as error:
        run.run(settings, writer, both)
    start = f"{settings.output} holds another run: "
    assert str(error.value).startswith(start + expected), error.value
    assert "\n" not in str(error.value)
    after = {path: path.read_bytes() for path in before if path.exists()}
    assert after == before and not shard.exists()


def test_what_does_not_decide_the_output_may_change(settings, models, scorer):
    run.run(settings, *models)
    config = dataclasses.replace(models[1]["judge"][1].config, scan_unroll=2)
    moved = {"judge": ("gs://elsewhere", changed(models[1]["judge"][1], config=config))}
    run.run(dataclasses.replace(settings, batch_size=2), models[0], moved)


def test_shards_that_nothing_tells_of_are_not_continued(settings, models, scorer):
    run.run(settings, *models)
    os.remove(f"{settings.output}/{FILE}")
    with pytest.raises(UserError, match=f"{FILE} is missing, so that nothing tells"):
        run.run(settings, *models)


def test_another_host_with_other_settings_cannot_mix(settings, models, scorer, monkeypatch):
    """It has replaced the fingerprint between this one's start and its first shard."""
    check = resume.check_same_run

    def begins(own, *rest):
        check(own, *rest)
        path = pathlib.Path(settings.output) / FILE
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))

    monkeypatch.setattr(resume, "check_same_run", begins)
    with pytest.raises(UserError, match="seed was 7, now 0"):
        run.run(settings, *models)
    assert not storage.has_shards(settings.output)


@pytest.mark.parametrize("size", [0, 10, 1 << 16])
def test_a_shard_cut_short_is_named(settings, models, scorer, size):
    run.run(settings, *models)
    shard = storage.shard_path(settings.output, "train", 1, 2)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:size])
    message = f"{shard} is damaged .*; delete it and rerun the same command"
    with pytest.raises(UserError, match=message) as error:
        run.run(settings, *models)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="row [0-3] cannot be read .* damaged or cut short"):
        storage.read(settings.output, "train")
    shard.unlink()
    run.run(settings, *models)
    assert len(storage.read(settings.output, "train").key) == ROWS
