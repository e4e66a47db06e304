"""VisDial as a task: examples, loss, starting weights, ranking, evaluation inside training."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import task_datasets
import tiny
import tiny_dataset

from blip_jax.data.fields import rounds_of
from blip_jax.data.mixture import Component, RecordSource, save_mixture
from blip_jax.data.pipeline import InvalidRecord
from blip_jax.data.tokenizer import TokenIds
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.train import loop, recipes
from blip_jax.train.init_params import load_init_params
from blip_jax.train.optimizer import Constant

TASK = VisdialConfig(max_length=24, negatives=2)
LOSSES = ("softmax", "binary")


@pytest.fixture(scope="module")
def dataset(world):
    return task_datasets.dialogs(world.folder)


@pytest.fixture(scope="module")
def loaded(dataset):
    return EvalDataset.load(dataset, "train", tiny.IMAGE)


def make_task(world, **changes):
    med = {"vocab_size": world.tokenizer.ids.vocab_size, "max_length": tiny_dataset.LENGTH}
    return replace(TASK, **changes).make(tiny.config(med=med), world.tokenizer)


def rows(dataset):
    return RecordSource(Component("x", dataset))


def dialog(**changes):
    entry = {"question": "q?", "answer": "a", "options": ["a", "b", "b.", "A"], "answer_index": 0}
    return {"key": "1", "fields": json.dumps({"caption": "c", "rounds": [entry | changes]})}


def test_a_round_becomes_an_example(world, dataset):
    task, record = make_task(world), rows(dataset)[0]
    rounds = rounds_of(record)
    draws = [task.example(record, np.random.default_rng(seed)) for seed in range(12)]
    assert {len(e["text"].history) for e in draws} == {0, 1}
    for example in draws:
        text = example["text"]
        entry = rounds[len(text.history)]
        assert text.candidates[0] == entry["answer"] and text.question == entry["question"]
        assert len(set(text.candidates)) == 3 and set(text.candidates) <= set(entry["options"])
        assert text.history in ((), (f"{rounds[0]['question']} {rounds[0]['answer']}",))
    assert {text for e in draws for text in e["text"].candidates[1:]} > set(
        draws[0]["text"].candidates[1:]
    )
    batch = task.collate(draws[:3])
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in task.batch_spec(3).items() if name != "valid"
    }
    with pytest.raises(InvalidRecord, match="undecodable image"):
        task.example(rows(dataset)[task_datasets.BROKEN], np.random.default_rng(0))


def test_what_cannot_be_trained_on_is_left_out(world, dataset):
    task, image = make_task(world), rows(dataset)[0]["image"]
    rng = np.random.default_rng(0)
    for changes, reason in {
        "answer_index": (None, "missing field"),
        "options": (["a", "A", "a."], "empty text"),  # all of them are the right one
    }.items():
        with pytest.raises(InvalidRecord, match=reason[1]):
            task.example({**dialog(**{changes: reason[0]}), "image": image}, rng)
    example = task.example({**dialog(), "image": image}, rng)
    assert example["text"].candidates == ("a", "b")  # each once, and none that is the right one
    batch = task.collate([example, task.empty_example()])
    assert batch["candidate"].tolist() == [[True, True, False], [True, False, False]]


def test_a_flip_exchanges_left_and_right_in_all_texts(world, dataset):
    task, image = make_task(world), rows(dataset)[0]["image"]
    task.transform = dataclasses.replace(
        task.transform, scale=None, flip="image_and_text", randaugment=None
    )
    record = dialog(question="left?", answer="left", options=["left", "right"])
    seen = {
        task.example({**record, "image": image}, np.random.default_rng(seed))["text"]
        for seed in range(8)
    }
    assert {(t.question, t.candidates) for t in seen} == {
        ("left?", ("left", "right")),
        ("right?", ("right", "left")),
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_add_up_to_the_batch(world, dataset, loss):
    task = make_task(world, loss=loss)
    batch = task_datasets.batches(task, rows(dataset), 3)
    batch["valid"][1] = batch["candidate"][2, 2] = False
    params = tiny.init(task.model, 1, "dialog")
    count, _ = task.prepare(params, {}, batch, jnp.int32(0), None)
    compiled = jax.jit(lambda arrays: task.loss(params, arrays, count, None, None)[0])

    def value(first, last, **changes):
        return float(compiled(jax.tree.map(lambda x: x[first:last], {**batch, **changes})))

    whole = value(0, 3)
    assert whole == pytest.approx(sum(value(i, i + 1) for i in range(3)), rel=1e-5)
    assert value(1, 2) == 0  # a row that is not valid
    other = batch["ids"].copy()
    other[2, 2] = 7  # a candidate that there is not
    other[~batch["mask"]] = 9
    assert value(0, 3, ids=other) == pytest.approx(whole, rel=1e-6)
    other[0, 1] = 7
    assert value(0, 3, ids=other) != pytest.approx(whole, rel=1e-4)


def test_losses_by_hand(world, dataset, monkeypatch):
    scores = np.log([[4.0, 2.0, 2.0], [1.0, 3.0, 1.0]])
    batch = task_datasets.batches(make_task(world), rows(dataset), 2)
    batch["candidate"][1, 2] = False
    wanted = {
        "softmax": (-np.log(4 / 8) - np.log(1 / 4)) / 2,
        "binary": (np.log([5 / 4, 3, 3]).mean() + np.log([2, 4]).mean()) / 2,
    }
    for loss in LOSSES:
        task = make_task(world, loss=loss)
        logits = jnp.stack([jnp.zeros(6), jnp.asarray(scores.ravel())], axis=-1) + 5.0
        monkeypatch.setattr(task, "apply", lambda *_, logits=logits, **__: logits)
        found, metrics = task.loss({}, batch, jnp.float32(2), None, None)
        assert float(found) == pytest.approx(wanted[loss], rel=1e-5)
        assert float(metrics["train_accuracy"]) == 0.5


def test_it_starts_with_the_weights_of_a_pretraining(world, model):
    pretrained = tiny_dataset.save(model("pretrain"), f"{world.folder}/pretrained-dialog")
    task = make_task(world)
    params = load_init_params(pretrained, task, jax.random.key(0))
    old = model("pretrain").params
    assert set(params) == {"vit", "med", "itm_head"}
    for name in ("vit", "itm_head"):
        jax.tree.map(np.testing.assert_array_equal, params[name], old[name])
    context = "cross_attention_context"
    jax.tree.map(np.testing.assert_array_equal, params["med"][context], old["med"][context])


def test_ranking_does_not_depend_on_the_chunk(world, loaded, model):
    dialog_model, predictions = model("dialog"), {}
    for chunk in (1, 3, 25):
        task = replace(TASK, eval_chunk=chunk).make(dialog_model.config, world.tokenizer)
        predictions[chunk] = task.predict(dialog_model, loaded)
    scores = {chunk: np.array([p["scores"] for p in found]) for chunk, found in predictions.items()}
    assert scores[25].shape == (2 * len(loaded.records), 4) == (22, 4)
    for chunk in (1, 3):
        np.testing.assert_allclose(scores[chunk], scores[25], rtol=1e-4, atol=1e-5)
        assert [p["answer"] for p in predictions[chunk]] == [p["answer"] for p in predictions[25]]
    first = predictions[25][1]
    entry = rounds_of(loaded.records[0])[1]
    assert (first["key"], first["question"]) == ("0#2", entry["question"])
    assert first["answer"] == entry["options"][int(np.argmax(first["scores"]))]


def test_scores_are_those_of_training(world, dataset, loaded, model):
    """The loss of a batch follows from the scores of evaluation."""
    dialog_model = model("dialog")
    task = replace(TASK, negatives=3).make(dialog_model.config, world.tokenizer)
    task.transform = dataclasses.replace(task.transform, scale=None, flip="none", randaugment=None)
    batch = task_datasets.batches(task, rows(dataset), 1)
    found = jax.jit(lambda arrays: task.loss(dialog_model.params, arrays, 1, None, None)[0])(batch)
    losses = []
    for prediction, entry in zip(
        task.predict(dialog_model, loaded)[:2], rounds_of(loaded.records[0]), strict=True
    ):
        scores = np.array(prediction["scores"])
        losses.append(np.logaddexp.reduce(scores) - scores[entry["answer_index"]])
    assert min(abs(float(found) - loss) for loss in losses) < 1e-4


def test_metrics_of_predictions_of_rounds(world):
    task = make_task(world)
    records = [
        dialog(relevance=[1, 0.5, 0, 0]) | {"key": "1"},
        dialog(options=["x", "y"], answer_index=1) | {"key": "2"},
        dialog(answer_index=None) | {"key": "3"},
    ]
    predictions = [
        {"key": "1#1", "scores": [1, 4, 3, 2]},
        {"key": "2#1", "scores": [-1.0, 0.0]},
        {"key": "3#1", "scores": [1, 2, 3, 4]},  # unknown
        {"key": "9#1", "scores": [1]},  # of no record
        {"key": "2#1", "answer": "y"},  # of another task
    ]
    found = task.evaluate(predictions, records)
    assert found["mrr"] == pytest.approx(100 * (1 / 4 + 1) / 2)
    assert (found["r@1"], found["r@5"], found["mean_rank"]) == (50, 100, 2.5)
    best = 1 + 0.5 / np.log2(3)
    assert found["ndcg"] == pytest.approx(100 * 0.5 / best)  # the first two places count
    assert task.evaluate(predictions[3:], records) == {}
    with pytest.raises(UserError, match=r"prediction 2#1 has 3 scores for 2 options; give one"):
        task.evaluate([{"key": "2#1", "scores": [1, 2, 3]}], records)


def test_a_test_split_gives_a_submission_file(world, model, tmp_path):
    """Its last rounds have options, and no answer is known: nothing is measured."""
    folder = task_datasets.dialogs(tmp_path, 5, answers=False)
    config = EvaluateConfig("", folder, "train", task=TASK)
    assert evaluate(config, str(tmp_path / "out"), model=model("dialog")) == {}
    entries = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert [(e["image_id"], e["round_id"]) for e in entries] == [(i, 2) for i in (0, 1, 2, 4)]
    assert all(sorted(entry["ranks"]) == [1, 2, 3, 4] for entry in entries)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    for line, entry in zip(lines, entries, strict=True):
        assert entry["ranks"][int(np.argmax(json.loads(line)["scores"]))] == 1


def test_no_submission_without_numbers_as_keys(world):
    task = make_task(world)
    assert task.submission([{"key": "dog#1", "scores": [1.0]}]) is None
    assert task.submission([{"key": "1", "caption": "x"}]) is None
    uneven = [{"key": "1#1", "scores": [1.0]}, {"key": "1#2", "scores": [1.0, 2.0]}]
    assert task.submission(uneven) is None
    (entry,) = task.submission([{"key": "12#3", "scores": [1.0, 2.0]}])
    assert entry == {"image_id": 12, "round_id": 3, "ranks": [2, 1]}


def test_what_cannot_be_ranked_is_refused(world, model):
    human = EvalDataset.load(world.human, "test", tiny.IMAGE)
    task, dialog_model = make_task(world), model("dialog")
    with pytest.raises(UserError, match=r"^no dialog with options in .*, split test; evaluate on"):
        task.predict(dialog_model, human)
    with pytest.raises(UserError, match="a vqa model cannot rank dialog; load a dialog model"):
        task.predict(model("vqa"), human)
    for name in ("negatives", "eval_chunk"):
        with pytest.raises(UserError, match=f"task.{name} is 0; it must be 1 or more"):
            VisdialConfig(**{name: 0})


def test_a_step_by_hand():
    """89,216 an image, 10,240 its keys and values, 82,432 a text of 7 tokens that reads it."""
    task = VisdialConfig(max_length=7, negatives=2).make(tiny.config(), TokenIds())
    pixels = 24_576  # nothing is derived by them
    assert task.flops(4) == 4 * (3 * (89_216 + 10_240 + 3 * 82_432) - pixels)


@pytest.mark.slow
def test_a_run_starts_from_a_pretraining_and_evaluates(world, dataset, model, tmp_path):
    pretrained = tiny_dataset.save(model("pretrain"), str(tmp_path / "pretrained"))
    save_mixture(str(tmp_path / "mixture.json"), [Component("x", dataset)])
    config = replace(
        recipes.visdial(),
        model=make_task(world).model, task=TASK, tokenizer=f"{world.folder}/tokenizer",
        batch_size=8, accumulate_steps=2, steps=2, log_every=1,
        **{
            "optimizer.schedule": Constant(1e-3), "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2,
            "data.mixture": str(tmp_path / "mixture.json"), "init.run": pretrained,
            "eval.every": 2, "eval.dataset": dataset, "eval.split": "train",
            "checkpoints.keep_best": "primary", "eval.allow_training_images": True,
        },
    )  # fmt: skip
    assert loop.train(config, str(tmp_path / "run")).step == 2
    folder = tmp_path / "run" / "evaluation" / "2"
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 22
    written = json.loads((folder / "metrics.json").read_text())
    metrics = {metric: entry["value"] for metric, entry in written.items()}
    assert set(metrics) == {"mrr", "r@1", "r@5", "r@10", "mean_rank", "ndcg"}
    again = evaluate(
        EvaluateConfig(
            str(tmp_path / "run"), dataset, "train", task=TASK, allow_training_images=True
        ),
        str(tmp_path / "again"),
    )
    assert again == pytest.approx(metrics)
    predictions = str(tmp_path / "again" / "predictions.jsonl")
    scored = EvaluateConfig("", dataset, "train", task=TASK, predictions=predictions)
    assert evaluate(scored) == again
    assert "skipped" in (tmp_path / "run" / "metrics.jsonl").read_text()
