"""Evaluates a model, or a file of predictions, on a dataset: predictions, metrics, a table.

Of several processes each encodes all images and texts; re-ranking, captions and answers, which
take long, are shared. All get the same numbers, and the first writes them.
"""

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from blip_jax import nn
from blip_jax.data.datasets import open_dataset, plain_fields
from blip_jax.data.tokenizer import TokenIds
from blip_jax.metrics import retrieval, uncertainty
from blip_jax.models import Model, load
from blip_jax.runtime.arguments import check_fields
from blip_jax.runtime.config import replace, required, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, check_regular, check_scheme, write_json
from blip_jax.runtime.fingerprint import (
    check_fingerprint,
    check_verb,
    file_digest,
    path_digest,
    values_digest,
)
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.numbers import is_number
from blip_jax.runtime.processes import run_on_main
from blip_jax.tasks.base import EvaluationTask, Prediction, TaskConfig
from blip_jax.tasks.contamination import check_contamination
from blip_jax.tasks.details import described
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.examples import EXAMPLES, example_page
from blip_jax.tasks.metric_table import Metrics
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.unfinished import UnfinishedWork

PREDICTIONS, METRICS, SUBMISSION = "predictions.jsonl", "metrics.json", "submission.json"
UNFINISHED = "unfinished"  # folder of an evaluation that was interrupted, by which it is resumed


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation."""

    model: str = ""  # workdir, .pth file, Hugging Face folder or id (see models.load)
    dataset: str = required("FOLDER")  # folder of the dataset with features.json
    split: str = "test"  # split of the dataset
    task: TaskConfig = PretrainingConfig()  # what is evaluated; its class is set in the config file
    limit: int = 0  # only the first this many images; 0: all
    predictions: str = ""  # a predictions.jsonl to score instead of running a model
    # Evaluate also on images that the model was trained on; the results are marked.
    allow_training_images: bool = False
    examples: int = 24  # predictions in examples.html: a third each best, worst, random; 0: no page

    def __post_init__(self):
        check_fields(self)
        if self.limit < 0:
            raise UserError(f"limit is {self.limit}; it must be 0 (all) or more")
        if self.examples < 0:
            raise UserError(f"examples is {self.examples}; it must be 0 (no page) or more")


def evaluate(
    config: EvaluateConfig,
    workdir: str = "",
    model: Model | None = None,
    write_page: Callable[..., Any] | None = None,
) -> Metrics:
    """Returns metrics by name, most of them in percent; those with a standard error as `Estimate`.

    Args:
      workdir: folder for predictions.jsonl, metrics.json, and submission.json if the benchmark has
        an evaluation server; "": none is written.
      model: in place of the config's.
      write_page: `reports.examples.write_examples`; None: no examples.html is written.

    Raises:
      UserError: a field that must be given is empty, or names nothing; the model was trained on
        images of the dataset, and this is not allowed; the task measures nothing of this model;
        another process evaluates in `workdir`, or it holds another verb's run.
    """
    if not (model or config.model or config.predictions):
        raise UserError(
            "config.model is empty; give it with --config.model=MODEL, or predictions with "
            "--config.predictions=FILE"
        )
    lock = folder_lock(workdir, "evaluate", run_on_main) if workdir else contextlib.nullcontext()
    with lock:
        if workdir:
            check_verb(workdir, "evaluate")
        unfinished = epath.Path(workdir) / UNFINISHED if workdir and not model else None
        model = None if config.predictions else model or load(config.model)
        task, predictions, records, metrics = _measure(config, model, unfinished)
        if workdir and jax.process_index() == 0:
            check_fingerprint(workdir, "evaluate", _fingerprint(config), begun=False)
            details = task.details(predictions, records)
            lines = [described(*x) for x in zip(predictions, details, strict=True)]
            write_evaluation(epath.Path(workdir), lines, metrics, task.submission(predictions))
            (epath.Path(workdir) / UNFINISHED).rmtree(missing_ok=True)
            (epath.Path(workdir) / EXAMPLES).unlink(missing_ok=True)  # of other predictions
            if write_page and config.examples and any(details):
                place = config.dataset, config.split
                sections = example_page(
                    predictions, details, place, config.examples, model, config.task.num_frames
                )
                write_page(
                    f"{workdir}/{EXAMPLES}",
                    f"Examples of {config.task.name}",
                    f"{config.predictions or config.model or model.name}, evaluated on "
                    f"{config.dataset}, split {config.split}.",
                    metrics.rows(),
                    sections,
                )
    return metrics


def _measure(
    config: EvaluateConfig, model: Model | None, unfinished: epath.Path | None
) -> tuple[EvaluationTask, list[Prediction], Sequence[Mapping[str, Any]], dict[str, float]]:
    training_images = 0
    if config.predictions:
        predictions = read_predictions(config.predictions)
        task = scoring_task(config.task)
        records = read_records(config.dataset, config.split)
        nothing = (
            f"{config.predictions} has no prediction of an image of {config.dataset}, split "
            f"{config.split}, that a {config.task.name} task measures; check the dataset and the "
            "task"
        )
    else:
        training_images = check_contamination(
            model.trained_on, config.dataset, config.split, config.limit,
            model=model.name or "the model", allow=config.allow_training_images,
        ).images  # fmt: skip
        # Texts are truncated as in the model's training.
        task_config = replace(config.task, max_length=model.max_length)
        task = task_config.make(model.config, model.tokenizer)
        task.check_packages(model.model_type)
        dataset = EvalDataset.load(
            config.dataset,
            config.split,
            model.image_size,
            config.limit or None,
            model.config.exif_orientation,
            config.task.num_frames,
        )
        if unfinished:  # what is kept belongs to this model, dataset and config
            made_of = [_fingerprint(config), _code_digest(config.task)]
            folder = str(unfinished / values_digest(made_of)[:16])
            dataset = dataclasses.replace(dataset, unfinished=UnfinishedWork(folder))
        predictions, records = task.predict(model, dataset), dataset.records
        nothing = (
            f"a {config.task.name} task measures nothing of a {model.model_type} model; give "
            "another model or another --config"
        )
    metrics = Metrics(uncertainty.marked(task.evaluate(predictions, records), training_images))
    if not metrics and task.submission(predictions) is None:
        raise UserError(nothing)
    return task, predictions, records, metrics


def _fingerprint(config: EvaluateConfig) -> dict[str, Any]:
    values = {"config": to_json(config)}
    for name in ("model", "dataset", "predictions"):
        values[name] = path_digest(getattr(config, name))
    return values


def _code_digest(task: TaskConfig) -> str:
    """Returns the digest of the file that defines a task; "" if there is none."""
    try:
        return file_digest(inspect.getfile(type(task)))
    except (OSError, TypeError):
        return ""


def scoring_task(config: TaskConfig) -> EvaluationTask:
    """Returns the task for its `evaluate` alone, which needs no network."""
    return config.make(nn.preset("base", med={"sharing": "none"}), TokenIds())  # any task's


def write_evaluation(
    folder: epath.Path,
    predictions: Sequence[Prediction],
    metrics: Mapping[str, float],
    submission: Any = None,
    training_images: int = 0,
) -> None:
    """Writes predictions.jsonl, metrics.json and submission.json into a folder, which is made.

    metrics.json has {"value", "n", "standard_error"} of each metric, null what is not known; and
    "training_images", the number of images that the model was trained on, if there are any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, SUBMISSION):  # of other predictions
        (folder / name).unlink(missing_ok=True)
    with atomic_write(folder / PREDICTIONS, "w") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction) + "\n")
    if submission is not None:
        write_json(folder / SUBMISSION, submission)
    metrics = uncertainty.marked(metrics, training_images)
    write_json(
        folder / METRICS, {name: uncertainty.to_json(value) for name, value in metrics.items()}
    )


def read_predictions(path: str) -> list[Prediction]:
    """Returns the predictions of a file, one JSON object a line.

    Raises:
      UserError: there is no such file, or a line is no prediction.
    """
    check_scheme(path)
    check_regular(path)
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"predictions file {path} does not exist")
    try:
        data = file.read_bytes()
        lines = data.decode(json.detect_encoding(data)).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"predictions file {path} cannot be read: {error}") from error
    predictions = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            prediction = json.loads(line)
            fault = _fault(prediction)
        except (ValueError, RecursionError):
            fault = "expected a JSON object with a 'key'"
        if fault:
            raise UserError(f"{path}, line {number} is not a prediction: {fault}")
        predictions.append(prediction)
    return predictions


def _fault(prediction: Any) -> str:
    """Returns what is wrong with a prediction of captions or of retrieval; "" if nothing is."""
    if not isinstance(prediction, dict) or "key" not in prediction:
        return "expected a JSON object with a 'key'"
    if not isinstance(prediction.get("answer", ""), str | bool):
        return "its answer is neither text nor true or false"
    for name in ("key", "caption"):
        if not isinstance(prediction.get(name, ""), str):
            return f"its {name} is not text"
    if not _is_list_of_numbers(prediction.get("scores", [])):
        return "its scores are not a list of numbers"
    if "direction" not in prediction:
        return ""
    if prediction["direction"] not in ("i2t", "t2i") or not isinstance(
        prediction.get("gallery"), int
    ):
        return "expected a direction, i2t or t2i, and the number of a gallery"
    for head in ("itc", "itm"):
        if head in prediction and not _is_ranking(prediction[head]):
            return f"its {head} has no hit@1, hit@5 and hit@10, each 0 to 1"
        if head in prediction and not _is_list_of_candidates(prediction[head]):
            return f"its {head} has not a list of texts as top, and of as many numbers as scores"
    return ""


def _is_ranking(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    hits = [found.get(f"hit@{k}") for k in retrieval.KS]
    return all(is_number(hit) and 0 <= hit <= 1 for hit in hits)


def _is_list_of_candidates(found: dict[str, Any]) -> bool:
    """Returns whether the best candidates, which may be left out, are names with scores."""
    top, scores = found.get("top", []), found.get("scores", [])
    named = isinstance(top, list) and all(isinstance(name, str) for name in top)
    return named and _is_list_of_numbers(scores) and len(scores) in (0, len(top))


def _is_list_of_numbers(values: Any) -> bool:
    """Returns whether it is a list of numbers, or of NaN, which metrics refuse by its name."""
    return isinstance(values, list) and all(type(x) is float or is_number(x) for x in values)


def read_records(dataset: str, split: str) -> list[dict[str, Any]]:
    """Returns the records of a split without their images, as plain values."""
    return [plain_fields(record) for record in open_dataset(dataset, split)]
