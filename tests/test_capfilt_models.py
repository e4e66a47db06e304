"""CapFilt with several captioners, filters and decoding methods, and a second round."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_dataset

from blip_jax.capfilt import mixture, provenance, run, storage
from blip_jax.capfilt.config import CapFiltConfig, ScoringConfig
from blip_jax.cli import capfilt
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.mixture import RecordSource, load_mixture
from blip_jax.decoding import Decoding
from blip_jax.runtime.errors import UserError

NUCLEUS = Decoding(max_length=16)
BEAM = Decoding(method="beam", num_beams=2, num_captions=2, max_length=16)
TOP_K = Decoding(top_p=1.0, top_k=5, max_length=16)


@pytest.fixture(scope="module")
def models(world):
    """Two captioners and two filters; one of each sees larger images."""
    larger = {"vit": {"image_size": 48}}
    writers = {
        "small": ("a", tiny_dataset.trained(world, 0, tiny_dataset.PROMPT)),
        "large": ("b", tiny_dataset.trained(world, 1, **larger)),
    }
    judges = {
        "strict": ("c", tiny_dataset.trained(world, 2)),
        "mild": ("d", tiny_dataset.trained(world, 3, **larger)),
    }
    return writers, judges


@pytest.fixture(scope="module")
def settings(world):
    decodings = (NUCLEUS, BEAM, TOP_K)
    return ScoringConfig(
        world.web, "train", f"{world.folder}/many", decodings, batch_size=1, shard_rows=16
    )


@pytest.fixture(scope="module")
def scored(settings, models):
    return run.run(settings, *models)


def texts_of(directory, row):
    return open_dataset(directory, "train")[row]["texts"]


def test_each_captioner_writes_in_each_way(scored):
    texts = texts_of(scored, 0)
    found = [(to_text(m), to_text(w)) for m, w in zip(texts["model"], texts["method"])]
    own = ["nucleus", "beam", "beam", "top_k"]
    assert found == [("", "")] + [(name, way) for name in ("small", "large") for way in own]
    assert [to_text(origin) for origin in texts["origin"]] == ["web"] + 8 * ["synthetic"]
    logs = texts["log_probability"]
    assert np.isnan(logs[0]) and np.isfinite(logs[1:]).all()


def test_each_filter_scores_each_text_as_it_does_alone(settings, models, scored, tmp_path):
    writers, judges = models
    together = storage.read(scored, "train")
    for number, name in enumerate(judges):
        alone = dataclasses.replace(settings, output=str(tmp_path / name))
        one = storage.read(run.run(alone, writers, {name: judges[name]}), "train")
        assert one.text.to_pylist() == together.text.to_pylist()
        np.testing.assert_allclose(one.p_match[:, 0], together.p_match[:, number], atol=1e-5)
        np.testing.assert_allclose(one.cosine[:, 0], together.cosine[:, number], atol=1e-5)
    assert not np.allclose(together.p_match[:, 0], together.p_match[:, 1], equal_nan=True)


def test_a_way_more_changes_no_text_of_the_others(settings, models, scored, tmp_path):
    fewer = dataclasses.replace(settings, output=str(tmp_path), decodings=(NUCLEUS,))
    found = run.run(fewer, {"small": models[0]["small"]}, models[1])
    for row in (0, 5, tiny_dataset.ROWS - 1):
        assert texts_of(found, row)["text"][1] == texts_of(scored, row)["text"][1]


def test_it_says_what_it_was_made_with(settings, models, scored):
    found = provenance.read(scored)
    assert found["dataset"] == settings.dataset and found["split"] == "train"
    assert [entry["name"] for entry in found["captioners"]] == ["small", "large"]
    assert [entry["path"] for entry in found["filters"]] == ["c", "d"]
    hashes = {entry["sha256"] for entry in found["captioners"] + found["filters"]}
    assert len(hashes) == 4 and all(len(value) == 64 for value in hashes)
    assert [way["method"] for way in found["decoding"]] == ["sample", "beam", "sample"]
    manifest = json.load(open(f"{scored}/manifest.json"))
    assert (
        manifest["rows"] == sum(shard["rows"] for shard in manifest["shards"]) == tiny_dataset.ROWS
    )
    assert sum(shard["status"]["ok"] for shard in manifest["shards"]) == tiny_dataset.ROWS - 1


def test_another_model_of_the_same_name_needs_another_folder(settings, world, models, scored):
    other = {
        "small": ("a", tiny_dataset.trained(world, 9, tiny_dataset.PROMPT)),
        "large": models[0]["large"],
    }
    with pytest.raises(UserError, match=r"another run: captioners\.small\.sha256 was"):
        run.run(settings, other, models[1])


def test_more_texts_than_are_scored_together(world, models, tmp_path):
    """Eleven an image, of which eight go at a time: each has the score it has by itself."""
    many = Decoding(max_length=16, num_captions=10)
    settings = ScoringConfig(world.web, "train", str(tmp_path), (many,), 1, 30)
    small, strict = {"small": models[0]["small"]}, {"strict": models[1]["strict"]}
    columns = storage.read(run.run(settings, small, strict), "train")
    again = ScoringConfig(
        last_texts(columns, settings, tmp_path), "train", str(tmp_path / "again"), (), 1
    )
    found = storage.read(run.run(again, {}, strict), "train")
    kept = columns.index == 10
    assert kept.sum() == tiny_dataset.ROWS - 1 and len(found.row) == kept.sum()
    np.testing.assert_allclose(found.p_match, columns.p_match[kept], atol=1e-5)


def last_texts(columns, settings, folder):
    """A mixture of the last text of each image."""
    source = mixture.ScoredDataset(settings.dataset, settings.split, settings.output)
    path = str(folder / "mixture.json")
    mixture.write_mixture(path, None, source, columns, columns.index == 10, 0.5)
    return path


# A second round: what was chosen goes in, with what is known of it.


def test_a_second_round_begins_with_the_texts_of_the_first(world, models, scored, tmp_path):
    columns = storage.read(scored, "train")
    kept = (columns.index % 2 == 0) & columns.scored
    first = str(tmp_path / "mixture.json")
    source = mixture.ScoredDataset(world.web, "train", scored)
    mixture.write_mixture(first, None, source, columns, kept, 0.0)
    settings = ScoringConfig(first, "train", str(tmp_path / "scores"), (BEAM,), 1, 16, seed=1)
    writers, judges = {"large": models[0]["large"]}, {"mild": models[1]["mild"]}
    second = run.run(settings, writers, judges)

    assert provenance.read(second)["dataset"] == world.web  # rows are the images' own
    rows, before = open_dataset(second, "train"), open_dataset(scored, "train")
    assert len(rows) == tiny_dataset.ROWS
    for row in (0, tiny_dataset.EMPTY, tiny_dataset.BROKEN):
        own = np.flatnonzero(kept & (columns.row == row))
        old, new = before[row]["texts"], rows[row]["texts"]
        places = columns.index[own]
        for name in ("text", "origin", "model", "method"):
            assert list(new[name][: len(own)]) == [old[name][place] for place in places]
        logs = new["log_probability"][: len(own)]
        np.testing.assert_array_equal(logs, [old["log_probability"][place] for place in places])
        written = 0 if row == tiny_dataset.BROKEN else 2
        assert len(new["text"]) == len(own) + written
    one, other = storage.read(second, "train"), columns
    carried = np.flatnonzero((one.row == 0) & (one.index == 1))[0]
    assert one.p_match[carried, 0] == pytest.approx(
        other.p_match[np.flatnonzero(kept & (other.row == 0))[1], 1], abs=1e-5
    )

    again = str(tmp_path / "again.json")
    source = mixture.ScoredDataset(world.web, "train", second)
    mixture.write_mixture(again, None, source, one, one.scored, 0.0)
    (part,) = load_mixture(again)
    assert len(RecordSource(part)) == one.scored.sum()  # what training reads


def test_a_view_without_scores_is_refused(world, tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"components": [{"name": "web", "dataset": world.web}]}))
    with pytest.raises(UserError, match="names 0 scored datasets; capfilt takes exactly one"):
        run.run(ScoringConfig(str(path), "train", str(tmp_path / "out")), {}, {"a": ("a", None)})


# How a config says it.


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("nucleus", [("sample", 1, 0)]),
        ("nucleus*3, beam*2", [("sample", 3, 0), ("beam", 2, 0)]),
        ("top_k*2", [("sample", 2, 50)]),
        ("greedy,", [("greedy", 1, 0)]),
    ],
)
def test_ways_of_writing(said, meant):
    found = CapFiltConfig(decoding_methods=said).decodings()
    assert [(way.method, way.num_captions, way.top_k) for way in found] == meant


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("nucleus*x", "'nucleus[*]x'; expected METHOD[*]NUMBER"),
        ("sung", "decoding_methods has 'sung'; known: nucleus, sample"),
        ("nucleous", "'nucleous'; did you mean 'nucleus'"),
        ("greedy*2", "gives at most 1"),
        ("nucleus*0", "num_captions is 0"),
    ],
)
def test_ways_that_there_are_not(said, named):
    with pytest.raises(UserError, match=named):
        CapFiltConfig(decoding_methods=said)


def test_models_have_names(world, tmp_path):
    for name in ("one", "two"):
        tiny_dataset.save(tiny_dataset.trained(world), str(tmp_path / name / "run"))
    config = CapFiltConfig()
    one, two = (str(tmp_path / name / "run") for name in ("one", "two"))
    assert list(capfilt.load_models(f"{one}", config, "filter")) == ["run"]
    assert list(capfilt.load_models(f"a={one}, b={two}", config, "filter")) == ["a", "b"]
    with pytest.raises(UserError, match="two models are called 'run'"):
        capfilt.load_models(f"{one},{two}", config, "filter")
