"""VQA and NLVR2 as tasks: examples, losses, starting weights, evaluation inside training."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import task_datasets
import tiny
import tiny_dataset

from blip_jax import nn
from blip_jax.data.fields import questions_of, statements_of
from blip_jax.data.mixture import Component, RecordSource, save_mixture
from blip_jax.data.pipeline import InvalidRecord
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.answers import training_answers
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.vqa import VqaConfig, answer_weights
from blip_jax.train import loop, recipes
from blip_jax.train.init_params import load_init_params
from blip_jax.train.optimizer import Constant

TASKS = {"vqa": VqaConfig(max_length=12), "nlvr": NlvrConfig(max_length=12)}


@pytest.fixture(scope="module")
def datasets(world):
    return {"vqa": task_datasets.questions(world.folder), "nlvr": task_datasets.pairs(world.folder)}


@pytest.fixture(scope="module")
def pretrained(world, model):
    return tiny_dataset.save(model("pretrain"), f"{world.folder}/pretrained")


def make_task(world, name, **changes):
    med = {"vocab_size": world.tokenizer.ids.vocab_size, "max_length": tiny_dataset.LENGTH}
    med |= {"sharing": "none"} if name == "vqa" else {}
    return replace(TASKS[name], **changes).make(tiny.config(med=med), world.tokenizer)


def rows(dataset):
    return RecordSource(Component("x", dataset))


def test_a_question_becomes_an_example(world, datasets):
    task = make_task(world, "vqa")
    record = rows(datasets["vqa"])[0]
    draws = [task.example(record, np.random.default_rng(seed)) for seed in range(8)]
    assert {e["question"] for e in draws} == {
        "how many objects are there?", "what colour is the background?"
    }  # fmt: skip
    counted = next(e for e in draws if e["question"].startswith("how"))["answers"]
    assert sorted(counted.values()) == [0.3, 0.7] and counted["many"] == 0.3
    batch = task.collate(draws[:3])
    assert {k: v.shape for k, v in batch.items()} == {
        name: x.shape for name, x in task.batch_spec(3).items() if name != "valid"
    }
    weight = batch["answer_weight"]
    np.testing.assert_allclose(weight.sum(-1), 1)
    assert (np.diff(weight) <= 0).all()  # the most frequent answer comes first
    with pytest.raises(InvalidRecord, match="undecodable image"):
        task.example(rows(datasets["vqa"])[task_datasets.BROKEN], np.random.default_rng(0))
    with pytest.raises(InvalidRecord, match="missing field"):
        task.example({**record, "fields": "{}"}, np.random.default_rng(0))


def test_answers_weigh_as_much_as_their_annotators():
    question = {"answers": ["a", "b", "a", "a"], "weight": 0.2}
    assert answer_weights(question) == pytest.approx({"a": 0.15, "b": 0.05})
    for wrong in ("?", -1, float("inf"), float("nan")):
        assert answer_weights({"answers": ["a"], "weight": wrong}) == {"a": 1.0}


@pytest.mark.parametrize("name", ["max_answers", "max_answer_length", "rank_k", "num_candidates"])
def test_settings_out_of_range_are_named(name):
    with pytest.raises(UserError, match=f"^task.{name} is 0; it must be 1 or more$"):
        VqaConfig(**{name: 0})


def test_questions_of_a_table_of_ones_own():
    record = {"key": "k", "fields": json.dumps({"question": "who?", "answer": "me"})}
    assert questions_of(record) == [
        {"question": "who?", "answer": "me", "id": "k#0", "answers": ["me"]}
    ]
    for fields in ("", "[]", "{", '{"questions": 3}', '{"questions": [{"question": 1}, 2]}'):
        assert questions_of({"key": "k", "fields": fields}) == []
    fields = '{"questions": [{"question": "x", "answers": [true]}]}'
    assert questions_of({"key": b"k", "fields": fields})[0]["answers"] == []


def test_statements_of_a_table_of_ones_own():
    record = {"key": "k", "fields": json.dumps({"sentence": "s", "label": "False"})}
    (found,) = statements_of(record)
    assert (found["id"], found["label"], found["group"]) == ("k#0", False, "s")
    labels = [1, True, "true", None, "maybe", 0, 2]
    fields = json.dumps({"statements": [{"statement": "s", "label": x} for x in labels]})
    found = [s["label"] for s in statements_of({"key": "k", "fields": fields})]
    assert found == [True, True, True, None, None, False, None]


def test_swapped_images_exchange_left_and_right(world, datasets):
    task = make_task(world, "nlvr")
    plain = dataclasses.replace(task.transform, scale=None, flip="none", randaugment=None)
    task.transform = plain
    record = rows(datasets["nlvr"])[0]
    seen = {}
    for seed in range(20):
        example = task.example(record, np.random.default_rng(seed))
        seen[example["text"]] = example
    words = "the {} image has more objects"
    left, right = (seen[words.format(side)] for side in ("left", "right"))
    np.testing.assert_array_equal(left["image"], right["image"][::-1])
    assert left["label"] == right["label"] and left["image"].shape == (2, tiny.IMAGE, tiny.IMAGE, 3)
    with pytest.raises(InvalidRecord, match="undecodable image"):
        task.example(rows(datasets["nlvr"])[task_datasets.BROKEN], np.random.default_rng(0))


@pytest.mark.parametrize("name", TASKS)
def test_micro_batches_add_up_to_the_batch(world, datasets, name):
    task = make_task(world, name)
    batch = task_datasets.batches(task, rows(datasets[name]), 3)
    batch["valid"][1] = False
    params = tiny.init(task.model, 1, name)
    count, _ = task.prepare(params, {}, batch, jnp.int32(0), None)

    compiled = jax.jit(lambda arrays, rows: task.loss(params, arrays, count, rows, None)[0])

    def loss(part):
        return float(compiled(jax.tree.map(lambda x: x[part], batch), np.arange(3)[part]))

    whole = loss(slice(0, 3))
    assert whole == pytest.approx(sum(loss(slice(i, i + 1)) for i in range(3)), rel=1e-5)
    assert loss(slice(1, 2)) == 0  # a row that is not valid
    answers = batch.get("answer_weight")
    if answers is not None:  # padding does not count
        batch["answer_ids"][:, 2:] = 7
        assert loss(slice(0, 3)) == pytest.approx(whole, rel=1e-6)


def test_vqa_starts_with_both_roles_of_the_pretraining(world, pretrained, model):
    task = make_task(world, "vqa")
    params = load_init_params(pretrained, task, jax.random.key(0))
    med, old = params["med"], model("pretrain").params["med"]
    for role in ("encoder", "decoder"):
        same = {f"{role}_embeddings": "embeddings"}
        same |= {f"{role}_cross_attention_context": "cross_attention_context"}
        for name, origin in same.items():
            jax.tree.map(np.testing.assert_array_equal, med[name], old[origin])
        layer, former = med["layers"]["layer"], old["layers"]["layer"]
        for part in ("ffn_in", "cross_attention", "self_attention"):
            origin = f"{role}_{part}" if part == "self_attention" else part
            jax.tree.map(np.testing.assert_array_equal, layer[f"{role}_{part}"], former[origin])


def test_a_wider_image_transformer_leaves_the_answers_attention_fresh(world):
    task = make_task(world, "vqa")
    wide = tiny.init(dataclasses.replace(tiny.config(vit={"width": 32}), med=task.model.med))
    wide = {**wide, "med": tiny.init(tiny.config(med={
        "vocab_size": world.tokenizer.ids.vocab_size, "max_length": tiny_dataset.LENGTH
    }, vit={"width": 32}))["med"]}  # fmt: skip
    med = dataclasses.replace(task.model.med)
    larger = VqaConfig(max_length=12).make(
        dataclasses.replace(tiny.config(vit={"width": 32}), med=med), world.tokenizer
    )
    fresh = jax.tree.map(
        lambda x: np.full(x.shape, 9, np.float32), nn.param_shapes(larger.model, "vqa")
    )
    params = larger.adapt_params(wide, larger.model, fresh)["med"]
    assert (params["decoder_cross_attention_context"]["key_kernel"] == 9).all()
    assert (params["encoder_cross_attention_context"]["key_kernel"] != 9).any()


def test_nlvr_starts_with_two_copies_of_the_cross_attention():
    config = tiny.config(med={"depth": 8})
    larger = tiny.config(vit={"image_size": 32}, med={"depth": 8})
    pretrained = tiny.init(config)
    task = NlvrConfig(max_length=12).make(larger, None)
    fresh = jax.tree.map(lambda x: np.full(x.shape, 9, np.float32), nn.param_shapes(larger, "nlvr"))
    params = task.adapt_params(pretrained, config, fresh)
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    layer, old = params["med"]["layers"]["layer"], pretrained["med"]["layers"]["layer"]
    for name in ("cross_attention", "cross_attention_2"):
        jax.tree.map(np.testing.assert_array_equal, layer[name], old["cross_attention"])
        context = pretrained["med"]["cross_attention_context"]
        jax.tree.map(np.testing.assert_array_equal, params["med"][f"{name}_context"], context)
    assert (params["med"]["layers"]["merge_kernel"] == 9).all()
    assert (params["classifier_in"]["kernel"] == 9).all()
    want = nn.resize_position_embedding(pretrained["vit"]["position"], 17)
    np.testing.assert_array_equal(params["vit"]["position"], want)
    del pretrained["med"]["cross_attention_context"]
    with pytest.raises(KeyError, match="med/cross_attention_context/key_bias"):
        task.adapt_params(pretrained, config, fresh)


def test_candidates_are_the_most_frequent_training_answers(datasets):
    found = training_answers(datasets["vqa"], 100)
    assert set(found) >= {"1", "2"} and "many" not in found
    assert training_answers(datasets["vqa"], 2) == found[:2]
    with pytest.raises(UserError, match="has no questions with answers"):
        training_answers(datasets["nlvr"], 3)


def test_ranked_answers_are_those_of_the_python_api(world, datasets, model):
    dataset = EvalDataset.load(datasets["vqa"], "train", tiny.IMAGE)
    vqa = model("vqa")
    task = replace(TASKS["vqa"], candidates=datasets["vqa"], max_length=vqa.max_length)
    predictions = task.make(vqa.config, vqa.tokenizer).predict(vqa, dataset)
    assert len(predictions) == 2 * len(dataset.records) == 22
    images = [image for image in dataset.images for _ in range(2)]
    asked = [p["question"] for p in predictions]
    answers = vqa.answer(images, asked, list(training_answers(datasets["vqa"], 3128)))
    assert [p["answer"] for p in predictions] == [a.text for a in answers]
    np.testing.assert_allclose(
        [p["log_probability"] for p in predictions], [a.score for a in answers], rtol=1e-5
    )


@pytest.mark.parametrize("name", TASKS)
def test_a_run_starts_from_a_pretraining_and_evaluates(
    world, datasets, pretrained, name, tmp_path, capsys
):
    save_mixture(str(tmp_path / "mixture.json"), [Component("x", datasets[name])])
    config = replace(
        getattr(recipes, name)(),
        model=make_task(world, name).model, task=TASKS[name], tokenizer=f"{world.folder}/tokenizer",
        batch_size=8, accumulate_steps=2, steps=2, log_every=1,
        **{
            "optimizer.schedule": Constant(1e-3), "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2,
            "data.mixture": str(tmp_path / "mixture.json"), "init.run": pretrained,
            "eval.every": 2, "eval.dataset": datasets[name], "eval.split": "train",
            "checkpoints.keep_best": "primary", "eval.allow_training_images": True,
        },
    )  # fmt: skip
    assert loop.train(config, str(tmp_path / "run")).step == 2
    folder = tmp_path / "run" / "evaluation" / "2"
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 22  # two questions, or statements, of each image that decodes
    written = json.loads((folder / "metrics.json").read_text())
    metrics = {metric: entry["value"] for metric, entry in written.items()}
    config = EvaluateConfig(
        str(tmp_path / "run"), datasets[name], "train", TASKS[name], allow_training_images=True
    )
    again = evaluate(config, str(tmp_path / "again"))
    assert again == pytest.approx(metrics)
    scored = EvaluateConfig(
        "", datasets[name], "train", task=TASKS[name],
        predictions=str(tmp_path / "again" / "predictions.jsonl"),
    )  # fmt: skip
    assert evaluate(scored) == again
    assert "skipped" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", TASKS)
def test_a_dataset_without_what_is_asked_is_refused(world, model, name):
    dataset = EvalDataset.load(world.human, "test", tiny.IMAGE)
    loaded = model(name)
    task = replace(TASKS[name], max_length=loaded.max_length)
    what = {"vqa": "no question", "nlvr": "no statement about two images"}[name]
    with pytest.raises(UserError, match=f"^{what} in .*, split test; evaluate on a dataset with"):
        task.make(loaded.config, loaded.tokenizer).predict(loaded, dataset)


def test_a_test_split_gives_a_submission_file(world, model, tmp_path):
    """Its answers are unknown: there are predictions, but nothing is measured."""
    folder = task_datasets.unanswered(tmp_path)
    loaded = model("vqa")
    config = EvaluateConfig("", folder, "train", task=TASKS["vqa"])
    assert evaluate(config, str(tmp_path / "out"), model=loaded) == {}
    entries = json.loads((tmp_path / "out" / "submission.json").read_text())
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    predicted = [json.loads(line) for line in lines]
    assert entries == [{"question_id": int(p["key"]), "answer": p["answer"]} for p in predicted]
    assert [entry["question_id"] for entry in entries] == [0, 1, 2, 4]


@pytest.mark.parametrize("name", TASKS)
def test_predictions_of_another_kind_measure_nothing(datasets, name, tmp_path):
    other = {"vqa": True, "nlvr": "yes"}[name]
    path = tmp_path / "predictions.jsonl"
    path.write_text(
        "".join(json.dumps({"key": f"{row}-0", "answer": other}) + "\n" for row in (0, 1))
    )
    config = EvaluateConfig("", datasets[name], "train", task=TASKS[name], predictions=str(path))
    with pytest.raises(UserError, match="has no prediction of an image of .* measures"):
        evaluate(config)
    path.write_text('{"key": "0-0", "answer": 3}\n')
    with pytest.raises(UserError, match="its answer is neither text nor true or false"):
        evaluate(config)
