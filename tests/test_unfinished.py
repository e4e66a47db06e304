"""Evaluations that are interrupted: what was computed is stored, and used by the same one alone."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
import task_datasets
import tiny_dataset
from etils import epath

from blip_jax.decoding import Decoding
from blip_jax.tasks import (
    CaptioningConfig,
    NlvrConfig,
    RetrievalConfig,
    VisdialConfig,
    VqaConfig,
    eval_dataset,
)
from blip_jax.tasks import evaluate as evaluating
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.unfinished import StoredResults, UnfinishedWork

ROWS = np.array([2, 0])
RESULTS = [np.array([0.5, 1.5], np.float32), np.array([[1, 2], [3, 4]])]


def stored_in(path, fingerprint="a", count=3) -> StoredResults:
    return StoredResults(epath.Path(path), fingerprint, count)


def test_results_are_stored_for_the_same_work_alone(tmp_path):
    path = tmp_path / "new" / "results.npz"
    stored = stored_in(path)
    stored.add(ROWS, RESULTS)
    stored.save()
    assert not path.exists()  # written a moment ago
    stored.save(now=True)
    again = stored_in(path)
    assert again.done.tolist() == [True, False, True]
    for array, wanted in zip(again.arrays, RESULTS, strict=True):
        np.testing.assert_array_equal(array[ROWS], wanted)
        assert array.dtype == wanted.dtype
    data = path.read_bytes()
    for other in (stored_in(path, "b"), stored_in(path, "a", 4)):
        assert not other.done.any() and not other.arrays
    for place in (50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:place])
        assert not stored_in(path).done.any()


def test_each_piece_of_work_has_a_file_of_its_own(tmp_path):
    folder = str(tmp_path / "work")
    for number in (0, 1):
        work = UnfinishedWork(folder)
        for value in (7.0, 8.0):
            stored = work.results(2, ["same"], np.arange(2))
            if number:
                assert stored.done.all() and stored.arrays[0].tolist() == [value] * 2
            stored.add(np.arange(2), [np.full(2, value)])
            stored.save(now=True)
    assert not UnfinishedWork(folder).results(2, ["same"], np.arange(1, 3)).done.any()
    assert not UnfinishedWork(folder).results(2, ["another"], np.arange(2)).done.any()


ONE_IMAGE = 1e-9  # GiB; at least one image's keys and values are held
TASKS = {
    "pairs": (RetrievalConfig(rerank_k=6, rerank_memory_gib=ONE_IMAGE), "retrieval", None),
    "captions": (CaptioningConfig(decoding=Decoding(max_length=16)), "captioner", None),
    "answers": (VqaConfig(), "vqa", task_datasets.questions),
    "ranked answers": (VqaConfig(candidates="questions"), "vqa", task_datasets.questions),
    "statements": (NlvrConfig(), "nlvr", task_datasets.pairs),
    "dialogs": (VisdialConfig(max_length=24), "dialog", task_datasets.dialogs),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_an_interrupted_evaluation_resumes_with_the_same_bytes(
    world, model, tmp_path, monkeypatch, name
):
    task, model_type, make = TASKS[name]
    dataset = make(tmp_path) if make else world.human
    if isinstance(task, VqaConfig) and task.candidates:
        task = VqaConfig(candidates=dataset)
    monkeypatch.setattr(eval_dataset, "ROWS_PER_DEVICE", 1)
    saved = tiny_dataset.save(model(model_type), str(tmp_path / "model"))
    config = EvaluateConfig(saved, dataset, "train", task)
    added, add = [], StoredResults.add

    def run(folder, stop_after=None, config=config):
        added.clear()

        def counting(stored, rows, results):
            if len(added) == stop_after:
                stored.save(now=True)
                raise KeyboardInterrupt
            add(stored, rows, results)
            added.append(len(rows))

        monkeypatch.setattr(StoredResults, "add", counting)
        evaluate(config, str(tmp_path / folder))
        return {
            file: (tmp_path / folder / file).read_bytes()
            for file in ("predictions.jsonl", "metrics.json")
        }

    whole = run("whole")
    batches = list(added)
    assert len(batches) > 1 and not (tmp_path / "whole" / "unfinished").exists()
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop_after=1)
    assert run("killed") == whole
    assert added == batches[1:] and not (tmp_path / "killed" / "unfinished").exists()
    # What was computed with another config, or by other code of the task, is not used.
    with pytest.raises(KeyboardInterrupt):
        run("other", stop_after=1, config=dataclasses.replace(config, examples=1))
    assert run("other") == whole and added == batches
    with pytest.raises(KeyboardInterrupt):
        run("other", stop_after=1)
    monkeypatch.setattr(evaluating, "_code_digest", lambda task: "other")
    assert run("other") == whole and added == batches


def test_the_digest_of_a_tasks_code_is_that_of_its_file(tmp_path):
    path = tmp_path / "my_task.py"
    path.write_text("from blip_jax.tasks import VqaConfig\nclass Mine(VqaConfig): pass\n")
    spec = importlib.util.spec_from_file_location("my_task_of_a_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        before = evaluating._code_digest(module.Mine())
        path.write_text(path.read_text() + "# changed\n")
        assert before and evaluating._code_digest(module.Mine()) != before
    assert evaluating._code_digest(module.Mine()) == ""  # as in a notebook
