"""Answers to several questions about each image: an image is encoded once, nothing else changes."""

import json

import jax
import numpy as np
import pytest
import task_datasets
import tiny
import tiny_dataset
from test_reranking import one_device

from blip_jax.data.fields import questions_of
from blip_jax.data.text import clean_question
from blip_jax.decoding import Generated
from blip_jax.models import answering, functions
from blip_jax.models.answering import answer_by_image, image_tokens_function
from blip_jax.models.functions import answer_function, rank_function
from blip_jax.models.inputs import encode_candidates
from blip_jax.models.results import captions_of
from blip_jax.tasks import VqaConfig, answers, eval_dataset
from blip_jax.tasks.answers import predict_answers
from blip_jax.tasks.eval_dataset import EvalDataset, RowsOf

WORDS = ("How many objects are there?", "What colour is the background?", "Is it?", "Where?")
CANDIDATES = ["1", "2", "red", "blue", "a green square"]
DECODING = VqaConfig().decoding
COUNTS = (3, 1, 0, 4, 2, 1, 4, 0, 2, 7, 1, 3, 2, 2, 1, 0, 5, 1, 1, 2)  # questions of each record


@pytest.fixture(scope="module")
def questions(world):
    """A dataset of images with from none to seven questions, all images are different."""
    records = []
    for row, count in enumerate(COUNTS):
        record, _ = task_datasets.scene(row)
        asked = [{"id": f"{row}-{n}", "question": WORDS[(row + n) % len(WORDS)], "answers": ["1"]}
                 for n in range(count)]  # fmt: skip
        fields = json.dumps({"questions": asked})
        records.append({"key": record["key"], "image": record["image"], "texts": [],
                        "fields": fields})  # fmt: skip
    folder = tiny_dataset.write(f"{world.folder}/several", records, task_datasets.FEATURES)
    return EvalDataset.load(folder, "train", tiny.IMAGE)


@pytest.fixture(scope="module")
def clips(world):
    pytest.importorskip("av")
    return EvalDataset.load(task_datasets.clips(world.folder), "train", tiny.IMAGE, num_frames=3)


def for_each_question(model, dataset, candidates):
    """What was computed before: each question with an image of its own."""
    images, asked = dataset.entries(questions_of)
    texts = [clean_question(q["question"]) for q in asked]
    arrays = (
        RowsOf(dataset.images, np.array(images)),
        *model.tokenizer.encode(texts, model.max_length),
    )
    if candidates:
        shared = encode_candidates(model.tokenizer, candidates, model.config.med.max_length)
        rank = rank_function(model, 3)
        index, scores = dataset.share(lambda *rows: rank(*rows, shared=shared), *arrays)
        found = [candidates[i] for i in index]
    else:
        write = answer_function(model, DECODING.shape(1, model.config.med.max_length))
        generated = Generated(*dataset.share(
            lambda *rows: write(*rows, DECODING.params(len(rows[0]))), *arrays
        ))  # fmt: skip
        rows = captions_of(generated, np.ones(len(texts), int), model.tokenizer)
        found, scores = [row[0].text for row in rows], [row[0].score for row in rows]
    return [q["id"] for q in asked], found, scores


def check_same(predictions, wanted):
    keys, found, scores = wanted
    assert [p["key"] for p in predictions] == keys  # in the order of the dataset
    assert [p["answer"] for p in predictions] == found
    np.testing.assert_allclose([p["log_probability"] for p in predictions], scores, atol=1e-5)


@pytest.mark.parametrize("candidates", [[], CANDIDATES])
@pytest.mark.parametrize("rows", [eval_dataset.ROWS_PER_DEVICE, 1, 3])
def test_answers_are_those_of_each_question_with_its_image(
    questions, model, candidates, rows, monkeypatch
):
    wanted = for_each_question(model("vqa"), questions, candidates)
    monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", rows)
    found = predict_answers(model("vqa"), questions, DECODING, candidates, 3)
    check_same(found, wanted)
    assert len(set(wanted[2])) > 10 and len(found) == sum(COUNTS)
    assert found[0]["image"] == questions.records[0]["key"]


@pytest.mark.parametrize("candidates", [[], CANDIDATES])
def test_answers_about_clips(clips, model, candidates):
    found = predict_answers(model("vqa"), clips, DECODING, candidates, 3)
    check_same(found, for_each_question(model("vqa"), clips, candidates))


def test_answers_of_one_device_are_those_of_eight(world, questions, model, monkeypatch):
    wanted = predict_answers(model("vqa"), questions, DECODING)
    assert jax.local_device_count() == 8
    one_device(monkeypatch)
    alone = tiny_dataset.trained(world, 2, "", "vqa")
    found = predict_answers(alone, questions, DECODING)
    check_same(found, [[p[x] for p in wanted] for x in ("key", "answer", "log_probability")])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_questions(questions, model, monkeypatch, processes):
    vqa = model("vqa")
    images, asked = questions.entries(questions_of)
    ids, mask = vqa.tokenizer.encode([q["question"] for q in asked], vqa.max_length)
    work = image_tokens_function(vqa), answer_by_image(vqa, DECODING), np.array(images), ids, mask
    wanted = questions.share_by_image(*work, title="answers")
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(eval_dataset, "all_gather", lambda own: own[None])
    parts = []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(questions.share_by_image(*work, title="answers"))
    assert {len(part[0]) for part in parts} == {-(-sum(COUNTS) // processes)}
    for whole, *own in zip(wanted, *parts, strict=True):
        np.testing.assert_allclose(np.concatenate(own)[: len(whole)], whole, atol=1e-5)


def test_each_image_is_encoded_once_by_one_program(world, questions, monkeypatch):
    """A network of its own, so that its programs are compiled here; three blocks of 8 images."""
    monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", 1)
    fresh = tiny_dataset.trained(world, 3, "", "vqa", vit={"eps": 1e-5})
    encoded, encoders, decoders = [], [], []
    normalize, generate_answers = functions.normalize, answering.generate_answers

    def encoder(images):
        encoders.append(images.shape)
        return normalize(images)

    def decoder(*arguments):
        decoders.append(arguments)
        return generate_answers(*arguments)

    def image_tokens_function(model):
        encode = answering.image_tokens_function(model)
        return lambda images: (encoded.extend(images), encode(images))[1]

    monkeypatch.setattr(functions, "normalize", encoder)
    monkeypatch.setattr(answering, "generate_answers", decoder)
    monkeypatch.setattr(answers, "image_tokens_function", image_tokens_function)
    predict_answers(fresh, questions, DECODING)
    rows = [next(i for i, image in enumerate(questions.images) if np.array_equal(image, pixels))
            for pixels in encoded]  # fmt: skip
    asked = [row for row, count in enumerate(COUNTS) if count]
    assert len(asked) == 17 and sorted(set(rows)) == asked
    assert len(rows) == 24 and [rows.count(row) for row in asked[:16]] == [1] * 16
    assert len(encoders) == len(decoders) == 1  # one shape, whatever number of questions
