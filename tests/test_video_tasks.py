"""Video retrieval and video question answering: clips as images whose tokens are in a row."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import task_datasets
import tiny
import tiny_dataset

from blip_jax.data.mixture import Component, RecordSource, save_mixture
from blip_jax.data.pipeline import InvalidRecord, train_batches
from blip_jax.data.video import frames
from blip_jax.models.functions import encode_image_function, match_function
from blip_jax.nn import flops
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.tasks import (
    EvaluationTask,
    RetrievalConfig,
    VideoQaConfig,
    VideoRetrievalConfig,
    eval_dataset,
)
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.train import loop, recipes
from blip_jax.train.optimizer import Constant

F = 3
QA = VideoQaConfig(max_length=12, num_frames=F)
RETRIEVAL = VideoRetrievalConfig(num_frames=F, rerank_k=4)


@pytest.fixture(scope="module")
def dataset(world):
    pytest.importorskip("av")
    return task_datasets.clips(world.folder)


@pytest.fixture(scope="module")
def loaded(dataset):
    return EvalDataset.load(dataset, "train", tiny.IMAGE, num_frames=F)


def test_a_clip_that_does_not_decode_is_named_and_the_rest_is_used(dataset, loaded, capsys):
    again = EvalDataset.load(dataset, "train", tiny.IMAGE, num_frames=F)
    broken = f"clips-train-{task_datasets.BROKEN:07d}"
    assert capsys.readouterr().err == (
        f"skipped 1 of 8 clips of {dataset}, split train, which cannot be decoded: "
        f"{broken} (not a video, or cut off (InvalidDataError))\n"
    )
    assert again.content == "clip" and again.images.shape == (7, F, tiny.IMAGE, tiny.IMAGE, 3)
    rows = RecordSource(Component("x", dataset))
    want = [frames(rows[i]["video"], F, tiny.IMAGE) for i in range(8) if i != task_datasets.BROKEN]
    np.testing.assert_array_equal(again.images, want)
    assert broken not in [record["key"] for record in again.records]


def test_clips_that_are_decoded_when_used_are_the_same(dataset, loaded, monkeypatch):
    monkeypatch.setattr(eval_dataset, "MAX_IMAGE_BYTES", 1)
    lazy = EvalDataset.load(dataset, "train", tiny.IMAGE, num_frames=F)
    assert isinstance(lazy.images, eval_dataset.LazyImages)
    rows = np.array([5, 0, 5, 2])
    np.testing.assert_array_equal(lazy.images[rows], loaded.images[rows])


def test_a_batch_has_as_many_frames_as_it_would_have_images(loaded):
    devices = jax.local_device_count()
    assert loaded.batch_size == eval_dataset.ROWS_PER_DEVICE // F * devices
    pixels = dataclasses.replace(loaded.pixels, num_frames=1000)
    assert dataclasses.replace(loaded, pixels=pixels).batch_size == devices


def test_tokens_of_frames_are_in_a_row_and_features_their_mean(loaded, model):
    clips = np.concatenate([loaded.images, loaded.images[:1]])  # 8, one a device
    encode = encode_image_function(model("retrieval"))
    tokens, features = encode(clips)
    count = len(clips)
    of_frames, frame_features = encode(clips.reshape(-1, *clips.shape[2:]))
    np.testing.assert_allclose(tokens, of_frames.reshape(count, -1, tokens.shape[-1]), rtol=1e-5,
                               atol=1e-5)  # fmt: skip
    mean = frame_features.reshape(count, F, -1).mean(1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(features, mean, rtol=1e-5, atol=1e-5)


def test_a_clip_of_equal_frames_is_found_as_its_frame(loaded, model):
    """Attention over repeated tokens, and their mean, are those over the tokens themselves."""
    retrieval = model("retrieval")
    texts = [record["texts"] for record in loaded.records]
    ids, mask = retrieval.tokenizer.encode([t[0] for t in texts + texts[:1]], 12)
    images = np.concatenate([loaded.images, loaded.images[:1]])[:, 0]
    match = match_function(retrieval)
    of_images = match(images, ids[:, None], mask[:, None])
    of_clips = match(np.repeat(images[:, None], F, axis=1), ids[:, None], mask[:, None])
    for one, other in zip(of_images, of_clips, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_retrieval_of_clips(dataset, loaded, model, tmp_path):
    retrieval = model("retrieval")
    config = EvaluateConfig("", dataset, "train", task=RETRIEVAL)
    metrics = evaluate(config, str(tmp_path / "out"), model=retrieval)
    names = {f"{side}@{k}" for side in ("tr", "ir", "r") for k in (1, 5, 10)}
    names |= {"tr_median_rank", "ir_median_rank"}
    assert set(metrics) == {f"{head}/{name}" for head in ("itc", "itm") for name in names}
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert len(predictions) == 14
    texts = [record["texts"][0] for record in loaded.records]
    clips = loaded.images[[*range(7), 0]]
    _, features = encode_image_function(retrieval)(clips)
    ids, mask = retrieval.tokenizer.encode(texts, retrieval.max_length)
    similarity = features[:7] @ np.asarray(retrieval.encode_text(texts)).T
    ranks = [1 + (row > row[i]).sum() for i, row in enumerate(similarity)]
    assert [p["itc"]["rank"] for p in predictions[:7]] == ranks
    assert metrics["itc/tr_median_rank"] == np.median(ranks)
    read = ids[[*range(7), 0], None], mask[[*range(7), 0], None]
    logits = match_function(retrieval)(clips, *read)[0][:7, 0, 1]
    own = [p["itm"]["scores"][p["itm"]["top"].index(f"{p['key']}#0")]
           if f"{p['key']}#0" in p["itm"]["top"] else None for p in predictions[:7]]  # fmt: skip
    assert sum(score is not None for score in own) >= 4 or RETRIEVAL.rerank_k < 7
    for i, score in enumerate(own):
        if score is not None:
            assert score == pytest.approx(logits[i] + similarity[i, i], abs=1e-4)
    again = evaluate(replace(config, predictions=str(tmp_path / "out" / "predictions.jsonl")))
    assert again == metrics


def test_retrieval_of_clips_is_not_trained(model):
    retrieval = model("retrieval")
    task = RETRIEVAL.make(retrieval.config, retrieval.tokenizer)
    assert isinstance(task, EvaluationTask)
    with pytest.raises(UserError, match="evaluated with a model of images and not trained"):
        RETRIEVAL.make(retrieval.config, retrieval.tokenizer, mesh=object())


@pytest.mark.parametrize("config", [QA, RETRIEVAL])
def test_images_are_refused_by_tasks_of_clips(world, model, config):
    images = EvalDataset.load(world.human, "test", tiny.IMAGE)
    loaded = model("vqa" if config is QA else "retrieval")
    with pytest.raises(UserError, match="^no clip in .*; evaluate on a dataset with the field vid"):
        config.make(loaded.config, loaded.tokenizer).predict(loaded, images)
    with pytest.raises(UserError, match="^task.num_frames is 0; it must be 1 or more$"):
        dataclasses.replace(config, num_frames=0)


def test_training_names_a_dataset_without_what_the_task_reads(world, dataset):
    images, clips = (Component("x", folder) for folder in (world.human, dataset))
    med = {"vocab_size": world.tokenizer.ids.vocab_size, "max_length": tiny_dataset.LENGTH}
    filters = RetrievalConfig(max_length=12).make(tiny.config(med=med), world.tokenizer)
    for task, component, field in [(qa_task(world), images, "video"), (filters, clips, "image")]:
        with pytest.raises(UserError, match=f"^dataset .* has no field '{field}'; it has "):
            train_batches([component], task, 8)


def test_clips_are_refused_by_tasks_of_images(dataset, model):
    config = EvaluateConfig("", dataset, "train", task=RetrievalConfig())
    with pytest.raises(UserError, match="^.*clips, split train, holds clips; evaluate them with"):
        evaluate(config, model=model("retrieval"))


def qa_task(world, **changes):
    med = {"vocab_size": world.tokenizer.ids.vocab_size, "max_length": tiny_dataset.LENGTH}
    config = tiny.config(med=med | {"sharing": "none"})
    return replace(QA, **changes).make(config, world.tokenizer)


def test_a_question_about_a_clip_becomes_an_example(world, dataset):
    task, rows = qa_task(world), RecordSource(Component("x", dataset))
    example = task.example(rows[0], np.random.default_rng(0))
    assert example["image"].shape == (F, tiny.IMAGE, tiny.IMAGE, 3)
    task.transform = dataclasses.replace(task.transform, scale=None, randaugment=None)
    seen = [task.example(rows[0], np.random.default_rng(seed))["image"] for seed in range(8)]
    plain = frames(rows[0]["video"], F, tiny.IMAGE)
    flipped = [not np.array_equal(images, plain) for images in seen]
    assert any(flipped) and not all(flipped)  # all frames of a clip, or none
    for images, is_flipped in zip(seen, flipped):
        np.testing.assert_array_equal(images, plain[:, :, ::-1] if is_flipped else plain)
    batch = task.collate([example, task.empty_example()])
    spec = task.batch_spec(2)
    assert {k: v.shape for k, v in batch.items()} == {
        name: x.shape for name, x in spec.items() if name != "valid"
    }
    with pytest.raises(InvalidRecord, match="undecodable video"):
        task.example(rows[task_datasets.BROKEN], np.random.default_rng(0))
    without = {name: value for name, value in rows[0].items() if name != "video"}
    with pytest.raises(InvalidRecord, match="missing field"):
        task.example(without, np.random.default_rng(0))


def test_a_clip_of_equal_frames_has_the_loss_of_its_frame(world, dataset):
    clips = qa_task(world)
    one = replace(QA, num_frames=1).make(clips.model, world.tokenizer)
    batch = task_datasets.batches(one, RecordSource(Component("x", dataset)), 2)
    params = tiny.init(clips.model, 1, "vqa")
    many = {**batch, "image": np.repeat(batch["image"], F, axis=1)}
    losses = [
        float(task.loss(params, data, jnp.int32(2), np.arange(2), None)[0])
        for task, data in ((one, batch), (clips, many))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_flops_grow_with_the_frames(world):
    one, two, five = (qa_task(world, num_frames=count).flops(1) for count in (1, 2, 5))
    assert five - one == 4 * (two - one) > 0
    vit = flops.vit(tiny.config().vit)
    assert two - one > vit.trained("none") - vit.outside_layers  # and reading its tokens


def test_video_qa_starts_from_a_vqa_run_and_evaluates(world, dataset, model, tmp_path, capsys):
    start = tiny_dataset.save(model("vqa"), str(tmp_path / "vqa"))
    save_mixture(str(tmp_path / "mixture.json"), [Component("x", dataset)])
    config = replace(
        recipes.video_qa(),
        model=model("vqa").config, task=QA, tokenizer=f"{world.folder}/tokenizer",
        batch_size=8, steps=1, log_every=1,
        **{
            "optimizer.schedule": Constant(1e-3), "data.mixture": str(tmp_path / "mixture.json"),
            "init.run": start, "eval.every": 1, "eval.dataset": dataset, "eval.split": "train",
            "eval.allow_training_images": True,
        },
    )  # fmt: skip
    assert loop.train(config, str(tmp_path / "run")).step == 1
    folder = tmp_path / "run" / "evaluation" / "1"
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 7 and not (folder / "submission.json").exists()
    written = json.loads((folder / "metrics.json").read_text())
    assert set(written) == {"accuracy"} and written["accuracy"]["n"] == 7
    assert "undecodable video" in capsys.readouterr().err


# In Python.


def test_models_take_clips_where_they_take_images(dataset, loaded, model, tmp_path):
    data = [row["video"] for row in RecordSource(Component("x", dataset)) if len(row["video"]) > 9]
    path = tmp_path / "clip.mp4"
    path.write_bytes(data[0])
    clips = [path, *data[1:3]]
    vqa, retrieval = model("vqa"), model("retrieval")
    found = QA.make(vqa.config, vqa.tokenizer).predict(vqa, loaded)[:3]
    asked = [p["question"] for p in found]
    answers = vqa.answer(clips, asked, num_frames=F)
    assert [a.text for a in answers] == [p["answer"] for p in found]
    np.testing.assert_allclose(
        [a.score for a in answers], [p["log_probability"] for p in found], atol=1e-5
    )
    texts = [record["texts"][0] for record in loaded.records[:3]]
    ids, mask = retrieval.tokenizer.encode(texts, retrieval.max_length)
    rows = np.arange(8) % 3  # one a device
    logits, cosine = match_function(retrieval)(
        loaded.images[rows], ids[rows, None], mask[rows, None]
    )
    match = retrieval.match(clips, texts, num_frames=F)
    np.testing.assert_allclose(match.logits, logits[:3, 0], atol=1e-5)
    features = retrieval.encode_image(clips, num_frames=F)
    np.testing.assert_allclose(
        (features * retrieval.encode_text(texts)).sum(-1), cosine[:3, 0], atol=1e-5
    )
    with pytest.raises(UserError, match="^clip number 1: not a video, or cut off"):
        vqa.answer([path, b"no video"], "what?", num_frames=F)
    with pytest.warns(UserWarning, match="clip number 1"):
        assert vqa.answer([path, b"no video"], "what?", num_frames=F, on_error="skip")[1] is None
    with pytest.raises(UserError, match="ndarray is not a clip; give a path, bytes or an"):
        vqa.answer(loaded.images[0], "what?", num_frames=F)
    with pytest.raises(UserError, match="^num_frames is -1; it must be 0"):
        vqa.answer(path, "what?", num_frames=-1)
