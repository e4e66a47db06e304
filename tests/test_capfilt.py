"""CapFilt: a row an image, the same rows however it is run, and mixtures that training reads."""

import dataclasses
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pyarrow as pa
import pytest
import tiny_dataset

from blip_jax.capfilt import run, storage
from blip_jax.capfilt.config import ScoringConfig
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.images import decode, normalize, resize
from blip_jax.data.text import clean_caption
from blip_jax.decoding import Decoding
from blip_jax.models import load
from blip_jax.models.functions import captioner
from blip_jax.nn import Blip
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted

SHARDS = 4
WEB_TEXT, SYNTHETIC = 0, 1  # places of a row's texts


@pytest.fixture(scope="module")
def models(world):
    """A captioner and a filter as their trainings would have left them."""
    writer = tiny_dataset.trained(world, 0, tiny_dataset.PROMPT), f"{world.folder}/captioner"
    judge = tiny_dataset.trained(world, 1), f"{world.folder}/filter"
    paths = [tiny_dataset.save(*pair) for pair in (writer, judge)]
    return [{name: (path, load(path))} for name, path in zip(("writer", "judge"), paths)]


@pytest.fixture(scope="module")
def settings(world):
    """An image a device and shard: shards are not whole batches, nor is the split."""
    decoding = Decoding(max_length=16)
    return ScoringConfig(
        world.web, "train", f"{world.folder}/scores", (decoding,), batch_size=1, shard_rows=8
    )


@pytest.fixture(scope="module")
def scored(settings, models):
    return run.run(settings, *models)


@pytest.fixture(scope="module")
def columns(scored):
    return storage.read(scored, "train")


def files(folder):
    names = sorted(name for name in os.listdir(folder) if "array_record" in name)
    return {name: open(os.path.join(folder, name), "rb").read() for name in names}


def synthetic(columns):
    return columns.text.filter(pa.array(columns.where("origin", "synthetic"))).to_pylist()


# What is written.


def test_each_image_has_its_row_in_order(world, scored):
    source, rows = open_dataset(world.web, "train"), open_dataset(scored, "train")
    assert len(rows) == len(source) == tiny_dataset.ROWS
    for number in range(tiny_dataset.ROWS):
        record, row = source[number], rows[number]
        texts = row["texts"]
        assert row["key"] == record["key"]
        assert texts["text"][WEB_TEXT] == record["texts"][0]  # as it was found, not cleaned
        origins = [to_text(origin) for origin in texts["origin"]]
        assert origins == ["web", "synthetic"][: 1 if number == tiny_dataset.BROKEN else 2]
    assert sorted(files(scored)) == [
        f"scores-train.array_record-0000{i}-of-0000{SHARDS}" for i in range(SHARDS)
    ]


def test_all_is_scored_but_what_cannot_be(scored, columns):
    rows = open_dataset(scored, "train")
    for number in range(tiny_dataset.ROWS):
        row, texts = rows[number], rows[number]["texts"]
        places = range(len(texts["text"]))
        unscored = {tiny_dataset.BROKEN: [WEB_TEXT], tiny_dataset.EMPTY: [WEB_TEXT]}.get(number, [])
        for place in places:
            values = [texts[name][place].ravel() for name in ("itm_logits", "p_match", "cosine")]
            values = np.concatenate(values)
            good = place not in unscored
            assert np.isfinite(values).tolist() == [good] * 4, (number, place)
            assert (texts["tokens"][place] > 2) == good
            written = texts["origin"][place] == b"synthetic"
            assert np.isfinite(texts["log_probability"][place]) == written
        status = to_text(row["status"])
        assert status.startswith("undecodable image: ") == (number == tiny_dataset.BROKEN), status
        assert status == "ok" or number == tiny_dataset.BROKEN
    assert len(columns.row) == 2 * tiny_dataset.ROWS - 1
    assert len(set(synthetic(columns))) > tiny_dataset.ROWS / 2  # the captioner does look


def test_p_match_is_the_softmax_of_the_logits(scored):
    for row in open_dataset(scored, "train"):
        logits = np.stack(row["texts"]["itm_logits"])
        wanted = jax.nn.softmax(logits, axis=-1)[..., 1]
        np.testing.assert_allclose(row["texts"]["p_match"], wanted, rtol=1e-6)


def test_scores_are_those_of_the_judge_alone(world, models, scored):
    """A text at a time: without map, batch, or the other texts."""
    source, rows, judge = (
        open_dataset(world.web, "train"),
        open_dataset(scored, "train"),
        models[1]["judge"][1],
    )
    blip, params = Blip(judge.config), {"params": judge.params}

    @jax.jit
    def score(image, ids, mask):
        tokens = blip.apply(params, image[None], method="encode_image")
        context = blip.apply(params, tokens, "encoder", method="image_context")
        feature = blip.apply(params, tokens, method="image_features")
        logits = blip.apply(params, ids, mask, context, method="itm_logits")
        return logits[0], (blip.apply(params, ids, mask, method="text_features") @ feature.T)[0, 0]

    for number in (0, 15, tiny_dataset.EMPTY, tiny_dataset.ROWS - 1):
        image = normalize(resize(decode(source[number]["image"]), judge.image_size))
        texts = rows[number]["texts"]
        for place, text in enumerate(map(to_text, texts["text"])):
            if number == tiny_dataset.EMPTY and place == WEB_TEXT:
                continue
            ids, mask = judge.tokenizer.encode([clean_caption(text)], judge.max_length)
            logits, cosine = score(image, ids, mask)
            np.testing.assert_allclose(texts["itm_logits"][place][0], logits, atol=1e-5)
            assert texts["cosine"][place][0] == pytest.approx(float(cosine), abs=1e-5)
            assert texts["tokens"][place] == mask.sum()


def test_what_was_skipped_is_counted_by_reason(columns):
    found = storage.skipped(columns)
    assert found.pop("empty text") == 1
    ((reason, count),) = found.items()
    assert reason.startswith("undecodable image: ") and count == 1


# However it is run.


def test_the_batch_size_changes_no_text(settings, models, columns, tmp_path):
    """Nor does the cut into shards."""
    other = dataclasses.replace(settings, output=str(tmp_path), batch_size=2, shard_rows=30)
    found = storage.read(run.run(other, *models), "train")
    for name in ("text", "origin", "status", "key"):
        assert getattr(found, name).to_pylist() == getattr(columns, name).to_pylist()
    for name in ("p_match", "cosine"):
        np.testing.assert_allclose(getattr(found, name), getattr(columns, name), atol=1e-5)


def test_the_first_of_two_captions_is_the_one(settings, models, columns, tmp_path):
    two = (dataclasses.replace(settings.decodings[0], num_captions=2),)
    other = dataclasses.replace(settings, output=str(tmp_path), decodings=two)
    found = storage.read(run.run(other, *models), "train")
    assert found.index.max() == 2 and len(found.row) == 3 * tiny_dataset.ROWS - 2
    first, second = (
        found.text.filter(pa.array(found.index == place)).to_pylist() for place in (SYNTHETIC, 2)
    )
    assert first == synthetic(columns)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < tiny_dataset.ROWS / 3


def test_other_seeds_give_other_texts(settings, models, columns, tmp_path):
    other = dataclasses.replace(settings, output=str(tmp_path), seed=1)
    found = synthetic(storage.read(run.run(other, *models), "train"))
    same = sum(a == b for a, b in zip(found, synthetic(columns), strict=True))
    assert same < tiny_dataset.ROWS / 3


@pytest.mark.parametrize("how", ["error", "signal"])
def test_interrupted_and_run_again_is_uninterrupted(
    settings, models, scored, tmp_path, monkeypatch, how
):
    again = dataclasses.replace(settings, output=str(tmp_path))
    write, written = storage.write_shard, []

    def once(path, rows, *columns):
        if len(written) == 2 and how == "error":
            temporary = path.parent / storage.WORK / ".incomplete-1"
            temporary.write_bytes(b"half a shard")
            raise OSError("the disk is full")
        write(path, rows, *columns)
        written.append(path.name)
        if len(written) == 2 and how == "signal":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(storage, "write_shard", once)
    resume = "stopped with 2 of 4 shards done; rerun the same command to resume"
    error, message = (OSError, "full") if how == "error" else (Interrupted, resume)
    with pytest.raises(error, match=message):
        run.run(again, *models)
    before = files(tmp_path)
    assert len([name for name in before if name.startswith("scores")]) == 2
    assert not (tmp_path / "features.json").exists()  # no dataset yet
    monkeypatch.setattr(storage, "write_shard", write)
    changed = {name: os.stat(tmp_path / name).st_mtime_ns for name in written}
    run.run(again, *models)
    assert files(tmp_path) == files(scored)  # byte for byte
    assert not list((tmp_path / storage.WORK).glob(".incomplete-*"))
    assert changed == {name: os.stat(tmp_path / name).st_mtime_ns for name in written}
    for name in ("features.json", "dataset_info.json"):
        found = (tmp_path / name).read_text()
        assert found == open(os.path.join(scored, name)).read()


def test_interrupted_while_another_host_writes_the_metadata(settings, models, scored, tmp_path):
    """There may be no dataset yet; the same call writes it when that host has ended."""
    again = dataclasses.replace(settings, output=str(tmp_path / "scores"), lease_seconds=2.0)
    shutil.copytree(scored, again.output)
    (tmp_path / "scores" / run.MANIFEST).unlink()
    claim = tmp_path / "scores" / storage.WORK / "metadata" / "00000.json"
    claim.parent.mkdir(exist_ok=True)
    claim.write_text('{"owner": "elsewhere/1/abc", "heartbeats": 1}')
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(Interrupted, match="stopped with 4 of 4 shards done; rerun the same"):
        run.run(dataclasses.replace(again, lease_seconds=100.0), *models)
    assert not (tmp_path / "scores" / run.MANIFEST).exists()
    assert run.run(again, *models) == again.output
    assert (tmp_path / "scores" / run.MANIFEST).exists() and not claim.exists()


def test_what_is_done_is_not_done_again(settings, models, scored, monkeypatch):
    before = files(scored)
    monkeypatch.setattr(run.CaptionScorer, "rows", lambda *unused: pytest.fail("computed again"))
    assert run.run(settings, *models) == scored
    assert files(scored) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, r"holds another run: seed was 0, now 1; choose another folder"),
        (
            {"decodings": (Decoding(max_length=16, top_p=0.8),)},
            r"run: decodings.0.top_p was 0.9, now 0.8;",
        ),
        (
            {"decodings": (Decoding(max_length=16, num_captions=2),)},
            r"0.num_captions was 1, now 2;",
        ),
        ({"shard_rows": 15}, "shard_rows was 8, now 15; choose another"),
        ({"split": "test"}, "no split 'test'"),
        ({"split": "train[:10]"}, "takes a whole split"),
        ({"dataset": "/nowhere"}, "no dataset in /nowhere"),
    ],
)
def test_other_settings_need_another_folder(settings, models, scored, changes, named):
    before = files(scored)
    with pytest.raises(UserError, match=named):
        run.run(dataclasses.replace(settings, **changes), *models)
    assert files(scored) == before


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(UserError, match="lacks scores-train.array_record-00000-of-00001"):
        storage.finish(str(tmp_path), "train", [3], "")


@pytest.mark.parametrize(("length", "least"), [(tiny_dataset.LENGTH + 1, 5), (4, 0)])
def test_captions_longer_than_the_model_or_shorter_than_the_prompt(models, length, least):
    with pytest.raises(UserError, match=f"is {length}; .* tokens and be at most the model's 24"):
        captioner(models[0]["writer"][1], [Decoding(max_length=length, min_length=least)])


def test_it_goes_on_at_another_place(world, settings, models, scored, tmp_path):
    here, there = world.folder, str(tmp_path / "there")
    shutil.copytree(here, there)
    elsewhere = {
        name: getattr(settings, name).replace(here, there) for name in ("dataset", "output")
    }
    shard = next(name for name in files(scored))
    os.remove(os.path.join(elsewhere["output"], shard))
    run.run(dataclasses.replace(settings, **elsewhere), *models)
    assert files(elsewhere["output"]) == files(scored)
