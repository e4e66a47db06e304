"""Evaluation of a model: batches put together again, planted answers, known truths."""

import dataclasses
import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_dataset

from blip_jax.data.images import decode
from blip_jax.data.synthetic.builder import make_record
from blip_jax.data.synthetic.oracle import assess_texts
from blip_jax.data.text import clean_caption
from blip_jax.decoding import Decoding
from blip_jax.models import batching
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import eval_dataset, retrieval
from blip_jax.tasks.captioning import predict_captions
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.pretraining import PretrainingConfig

TEST = 10  # images, two texts each
GREEDY = Decoding(method="greedy", repetition_penalty=1.0, max_length=16)
TASK = PretrainingConfig(max_length=tiny_dataset.LENGTH, rerank_k=4, decoding=GREEDY)


@pytest.fixture(scope="module")
def model(world):
    return tiny_dataset.trained(world, 2, tiny_dataset.PROMPT)


@pytest.fixture
def small(monkeypatch):
    """Two rows a device: the last batch is not full."""
    monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", 2)


def records():
    return [make_record(row, "test", tiny_dataset.HUMAN) for row in range(TEST)]


# Batches.


def test_padded_batches_cut_and_fill_up():
    first, second = np.arange(5), np.arange(10).reshape(5, 2)
    found = list(batching.padded_batches(2, first, second))
    assert [count for count, _ in found] == [2, 2, 1]
    assert [slices[0].tolist() for _, slices in found] == [[0, 1], [2, 3], [4, 4]]
    assert found[2][1][1].tolist() == [[8, 9], [8, 9]]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_mapped_is_the_function_of_all_rows(size):
    seen = []

    def function(x, y):
        seen.append(len(x))
        return x * 2, (x + y).sum(-1)

    x, y = np.arange(14.0).reshape(7, 2), np.ones((7, 2))
    double, total = batching.run_in_batches(function, size, x, y)
    np.testing.assert_array_equal(double, x * 2)
    np.testing.assert_array_equal(total, (x + y).sum(-1))
    assert set(seen) == {size} and len(seen) == math.ceil(7 / size)


def test_mapped_takes_a_single_array_too():
    (found,) = batching.run_in_batches(lambda x: x + 1, 2, np.arange(3))
    assert found.tolist() == [1, 2, 3]


def test_images_leave_out_what_does_not_decode(world, model, small):
    dataset = EvalDataset.load(world.web, "train", model.image_size)
    keys = [
        f"web-train-{row:07d}" for row in range(tiny_dataset.ROWS) if row != tiny_dataset.BROKEN
    ]
    assert [record["key"] for record in dataset.records] == keys
    assert dataset.images.shape == (tiny_dataset.ROWS - 1, 16, 16, 3)
    wanted = decode(make_record(tiny_dataset.ROWS - 1, "train", tiny_dataset.WEB)["image"])
    np.testing.assert_array_equal(dataset.images[-1], wanted)
    assert len(EvalDataset.load(world.web, "train", model.image_size, limit=9).records) == 8


def test_images_of_a_large_split_are_decoded_when_used(world, model, small, monkeypatch):
    whole = EvalDataset.load(world.web, "train", model.image_size)
    monkeypatch.setattr(eval_dataset, "MAX_IMAGE_BYTES", 20 * 3 * model.image_size**2)
    lazy = EvalDataset.load(world.web, "train", model.image_size)
    assert isinstance(lazy.images, eval_dataset.LazyImages) and lazy.records == whole.records
    assert len(lazy.images) == len(whole.images)
    numbers = np.arange(len(whole.images))
    for dataset in (whole, lazy):
        (found,) = dataset.share(lambda x, n: x[:, 0, 0, 0] + 1000 * n, dataset.images, numbers)
        np.testing.assert_array_equal(found, whole.images[:, 0, 0, 0] + 1000 * numbers)


def test_no_image_that_decodes_is_named(world, model, tmp_path):
    broken = [{**record, "image": b"no image"} for record in records()]
    directory = tiny_dataset.write(str(tmp_path / "web"), broken)
    with pytest.raises(UserError, match="no image .* can be decoded"):
        EvalDataset.load(directory, "train", model.image_size)


# Retrieval with encoders that know the answers.


def plant(monkeypatch, model, shift=0, match=None):
    """Encoders that see which image or text it is.

    Image i stands at unit vector i; a text at that of its image, moved on by `shift`, with half
    as much of its own. `match`: ITM's logit of (image, image of the text).
    """
    image_of = {decode(r["image"]).tobytes(): i for i, r in enumerate(records())}
    texts = [(clean_caption(t), i) for i, r in enumerate(records()) for t in r["texts"]]
    ids, _ = model.tokenizer.encode([text for text, _ in texts], model.max_length)
    text_of = {row.tobytes(): i for row, (_, i) in zip(ids, texts, strict=True)}
    assert len(image_of) == TEST and len(text_of) == 2 * TEST
    unit = np.eye(TEST, dtype=np.float32)

    def encode_images(images):
        index = np.array([image_of[image.tobytes()] for image in images])
        return None, unit[index]

    def encode_texts(ids, mask):
        index = np.array([text_of[row.tobytes()] for row in ids])
        return unit[(index + shift) % TEST] + 0.5 * unit[index]

    def scorer(model, dataset, ids, mask, memory_gib):
        def score(images, texts):
            own = [text_of[row.tobytes()] for row in ids[texts]]
            return np.array([match(i, j) for i, j in zip(images, own, strict=True)])

        return score

    encode = SimpleNamespace(dispatch=encode_images, collect=lambda x: x)
    monkeypatch.setattr(retrieval, "encode_image_function", lambda model: encode)
    monkeypatch.setattr(retrieval, "encode_text_function", lambda model: encode_texts)
    monkeypatch.setattr(retrieval, "PairScorer", scorer)


def retrieve(world, model, gallery=0, rerank=0):
    return retrieval.evaluate_matches(predict(world, model, gallery, rerank))


def predict(world, model, gallery=0, rerank=0):
    dataset = EvalDataset.load(world.human, "test", model.image_size)
    config = retrieval.RetrievalConfig(rerank_k=rerank, gallery_size=gallery)
    return retrieval.predict_matches(model, dataset, config)


def test_planted_features_are_found(world, model, small, monkeypatch):
    plant(monkeypatch, model)
    found = retrieve(world, model)
    assert set(found.values()) == {100.0}
    assert "itc/r@1" in found and not any(name.startswith("itm") for name in found)


def test_planted_features_of_the_wrong_image_come_second(world, model, small, monkeypatch):
    plant(monkeypatch, model, shift=1)
    found = retrieve(world, model)
    assert [found[f"itc/{way}@1"] for way in ("tr", "ir", "r")] == [0, 0, 0]
    # Two texts of another image stand before an image's own two.
    assert [found[f"itc/{way}@5"] for way in ("tr", "ir", "r")] == [100, 100, 100]


def test_itm_decides_among_the_candidates(world, model, small, monkeypatch):
    plant(monkeypatch, model, shift=1, match=lambda image, own: 5.0 * (image == own))
    found = retrieve(world, model, rerank=4)
    assert found["itc/r@1"] == 0 and found["itm/r@1"] == found["itm/tr@1"] == 100
    # The image's own texts are not among two candidates, a text's own image is.
    found = retrieve(world, model, rerank=2)
    assert (found["itm/tr@1"], found["itm/ir@1"]) == (0, 100)


def test_galleries_part_what_looks_alike(world, model, small, monkeypatch):
    """Text and image are two places apart: in a gallery of two none sees the wrong one."""
    plant(monkeypatch, model, shift=2)
    assert retrieve(world, model)["itc/r@1"] == 0
    assert retrieve(world, model, gallery=2)["itc/r@1"] == 100


# Captions.


def test_captions_do_not_depend_on_the_batch(world, model, monkeypatch):
    written = []
    for size in (1, 3):
        monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", size)
        dataset = EvalDataset.load(world.human, "test", model.image_size)
        sampled = dataclasses.replace(GREEDY, method="sample")
        predictions = predict_captions(model, dataset, sampled)
        assert [x["key"] for x in predictions] == [record["key"] for record in records()]
        assert [x["reference"] for x in predictions] == [record["texts"] for record in records()]
        assert all(math.isfinite(x["score"]) and x["score"] < 0 for x in predictions)
        written.append([x["caption"] for x in predictions])
    assert written[0] == written[1] and len(set(written[0])) > TEST / 2
    assert not any(text.startswith(tiny_dataset.PROMPT.strip()) for text in written[0])


def truthfulness(texts, truths):
    """Percentages of `assess_texts`."""
    return {name: 100 * values.mean() for name, values in assess_texts(texts, truths).items()}


def test_true_texts_and_noise_are_told_apart():
    truths = [record["truth"] for record in records()]
    full = [record["texts"][0] for record in records()]
    assert truthfulness(full, truths) == {
        "caption_truth": 100, "caption_completeness": 100, "caption_exact": 100,
    }  # fmt: skip
    others = full[1:] + full[:1]
    found = truthfulness(others, truths)
    assert found["caption_completeness"] > 0
    assert found["caption_truth"] == found["caption_exact"] == 0
    web = [make_record(row, "train", tiny_dataset.WEB) for row in range(200)]
    real = [json.loads(record["truth"]) for record in web]
    found = truthfulness([r["texts"][0] for r in web], [r["truth"] for r in web])
    assert found["caption_truth"] == 100 * np.mean([not truth["noise"] for truth in real])
    right = [not truth["noise"] and not truth["short"] for truth in real]
    assert found["caption_exact"] == 100 * np.mean(right)


def test_truth_is_measured_only_where_it_is_known():
    truths = [record["truth"] for record in records()]
    assert truthfulness(["a red ring"], [""]) == {}
    assert truthfulness(["a red ring"] * TEST, [*truths[1:], ""]) == {}
    assert truthfulness([], []) == {}
    found = truthfulness(["qwerty"], truths[:1])
    assert found == {"caption_truth": 0, "caption_completeness": 0, "caption_exact": 0}


# The whole.


def test_all_numbers_are_there_and_do_not_depend_on_the_batch(world, model, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    found = []
    for size in (1, 2):
        monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", size)
        values = evaluate(EvaluateConfig(dataset=world.human, task=TASK), model=model)
        assert all(math.isfinite(value) for value in values.values())
        found.append(values)
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    ways = [f"{head}/{way}@{k}" for head in ("itc", "itm") for way in ("tr", "ir", "r")
            for k in (1, 5, 10)]  # fmt: skip
    rest = ["bleu4", "cider", "rouge_l"]
    rest += ["caption_truth", "caption_completeness", "caption_exact"]
    assert sorted(found[0]) == sorted([*ways, *rest])
    assert jax.local_device_count() == 8  # or the batches were others than was meant


# Predictions that are stored, and scored again.


def test_stored_predictions_have_the_same_metrics(world, model, small, tmp_path):
    pytest.importorskip("pycocoevalcap")
    config = EvaluateConfig(dataset=world.human, task=TASK)
    found = evaluate(config, str(tmp_path / "run"), model=model)
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {name: entry["value"] for name, entry in stored.items()} == found
    assert all(entry["n"] == TEST and entry["standard_error"] >= 0 for entry in stored.values())
    file = tmp_path / "run" / "predictions.jsonl"
    again = dataclasses.replace(config, predictions=str(file))
    assert evaluate(again) == found
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == TEST + 2 * TEST + TEST  # queries by image and by text, and captions
    assert {line["key"].split("#")[0] for line in lines} == {r["key"] for r in records()}


def test_predictions_name_the_best_candidates(world, model, small, monkeypatch):
    plant(monkeypatch, model, shift=1)
    first = predict(world, model)[0]
    keys = [record["key"] for record in records()]
    # The texts of the image before the first one, and then its own two.
    assert (first["key"], first["direction"]) == (keys[0], "i2t")
    before = [f"{keys[-1]}#0", f"{keys[-1]}#1", f"{keys[0]}#0", f"{keys[0]}#1"]
    assert first["itc"]["top"][:4] == before
    np.testing.assert_allclose(first["itc"]["scores"][:4], [1, 1, 0.5, 0.5], atol=1e-6)
    assert [first["itc"][f"hit@{k}"] for k in (1, 5, 10)] == [0, 1, 1]


@pytest.mark.parametrize("text", ["no json", "[]", '{"caption": "a cat"}'])
def test_a_line_that_is_no_prediction_is_named(world, tmp_path, text):
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"key": "a", "caption": "b"}\n' + text + "\n")
    config = EvaluateConfig(dataset=world.human, task=TASK, predictions=str(file))
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 2 is not a prediction"):
        evaluate(config)


def test_what_is_evaluated_must_be_given(world, tmp_path):
    with pytest.raises(UserError, match="config.model is empty"):
        evaluate(EvaluateConfig(dataset=world.human))
    with pytest.raises(UserError, match="predictions file .*nowhere.jsonl does not exist"):
        evaluate(EvaluateConfig(dataset=world.human, predictions=str(tmp_path / "nowhere.jsonl")))
