"""Evaluates a model, or a file of predictions, on a dataset: predictions, metrics, a table.

Of several processes each encodes all images and texts; re-ranking and captions, which take long,
are shared. All get the same numbers, and the first writes them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from blip_jax import nn
from blip_jax.data.datasets import open_dataset, plain_value
from blip_jax.data.tokenizer import TokenIds
from blip_jax.models import Model, load
from blip_jax.runtime.config import replace, required
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, write_json
from blip_jax.tasks.base import EvaluationTask, Prediction, TaskConfig
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.pretraining import PretrainingConfig

PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation."""

    model: str = ""  # workdir, .pth file, Hugging Face folder or id (see models.load)
    dataset: str = required("FOLDER")  # folder of the dataset with features.json
    split: str = "test"  # split of the dataset
    task: TaskConfig = PretrainingConfig()  # what is evaluated; its class is set in the config file
    limit: int = 0  # only the first this many images; 0: all
    predictions: str = ""  # a predictions.jsonl to score instead of running a model


def evaluate(config: EvaluateConfig, workdir: str = "", model: Model | None = None) -> dict:
    """Returns metrics by name, most of them in percent.

    Args:
      workdir: folder for predictions.jsonl and metrics.json; "": none is written.
      model: in place of the config's.

    Raises:
      UserError: a field that must be given is empty, or names nothing.
    """
    if not (model or config.model or config.predictions):
        raise UserError(
            "config.model is empty; give it with --config.model=MODEL, or predictions with "
            "--config.predictions=FILE"
        )
    if config.predictions:
        predictions = read_predictions(config.predictions)
        task = _scoring_task(config.task)
        records = read_records(config.dataset, config.split)
    else:
        model = model or load(config.model)
        # Texts are truncated as in the model's training.
        task_config = replace(config.task, max_length=model.max_length)
        task = task_config.make(model.config, model.tokenizer)
        dataset = EvalDataset.load(
            config.dataset,
            config.split,
            model.image_size,
            config.limit or None,
            model.config.exif_orientation,
        )
        predictions, records = task.predict(model, dataset), dataset.records
    metrics = task.evaluate(predictions, records)
    if workdir and jax.process_index() == 0:
        write_evaluation(epath.Path(workdir), predictions, metrics)
    return metrics


def _scoring_task(config: TaskConfig) -> EvaluationTask:
    """Returns the task for its `evaluate` alone, which needs no network."""
    return config.make(nn.preset("base"), TokenIds())


def write_evaluation(
    folder: epath.Path, predictions: Sequence[Prediction], metrics: Mapping[str, float]
) -> None:
    """Writes predictions.jsonl and metrics.json into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / PREDICTIONS, "w") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction) + "\n")
    write_json(folder / METRICS, dict(metrics))


def read_predictions(path: str) -> list[Prediction]:
    """Returns the predictions of a file, one JSON object a line.

    Raises:
      UserError: there is no such file, or a line is no prediction.
    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"predictions file {path} does not exist")
    try:
        lines = file.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeError) as error:
        raise UserError(f"predictions file {path} is not a text file in UTF-8") from error
    predictions = []
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            prediction = json.loads(line)
            if not isinstance(prediction["key"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number} is not a prediction: expected a JSON object with a 'key'"
            ) from error
        if not isinstance(prediction.get("caption", ""), str):
            raise UserError(f"{path}, line {number} has a caption that is not a text")
        predictions.append(prediction)
    return predictions


def read_records(dataset: str, split: str) -> list[dict[str, Any]]:
    """Returns the records of a split without their images, as plain values."""
    return [
        {name: plain_value(value) for name, value in record.items() if name != "image"}
        for record in open_dataset(dataset, split)
    ]
