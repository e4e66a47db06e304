"""The one training loop, for any task: batch after batch, checkpoints, metrics, evaluation."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from blip_jax.checkpoints.training import TrainingCheckpoints
from blip_jax.checkpoints.training_data import TrainingDataset
from blip_jax.checkpoints.workdir import Metadata
from blip_jax.data.mixture import load_mixture
from blip_jax.data.pipeline import SKIP_REASONS
from blip_jax.models import Model
from blip_jax.runtime.config import to_json, write_config
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed
from blip_jax.runtime.fingerprint import Resume
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.malloc import release_freed_memory
from blip_jax.runtime.processes import all_gather, is_multiprocess, run_on_main
from blip_jax.runtime.signals import Interrupted, SignalHandler
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.evaluate import write_evaluation
from blip_jax.train import wandb_run
from blip_jax.train.config import TrainConfig
from blip_jax.train.finite import DivergenceWarning, FiniteGuard
from blip_jax.train.logger import Logger
from blip_jax.train.mesh import put_batch
from blip_jax.train.optimizer import learning_rate
from blip_jax.train.resume import check_same_run
from blip_jax.train.setup import TrainSetup
from blip_jax.train.state import TrainState
from blip_jax.train.step_metrics import StepMetrics, Throughput
from blip_jax.train.training_data import count_training_images, record_training_data


def train(
    config: TrainConfig, workdir: str, devices: list | None = None, resume: Resume = "same"
) -> TrainState:
    """Trains to `config.steps`, from the newest checkpoint in `workdir` if there is one.

    Writes checkpoints, metrics.jsonl, TensorBoard events, the tokenizer, and with `eval.every`
    evaluations under `workdir`. With several processes each reads its rows and saves its part of
    the state; only the first writes the rest.

    Args:
      devices: those to train on; None: all, of all processes.
      resume: "anyway": also resume a run whose fields of `resume.ADJUSTABLE` were different.

    Returns: the last state.

    Raises:
      UserError: bad config or data, images to evaluate on that are trained on, a workdir that
        another process uses or that holds another run, a step that is not finite, or a checkpoint
        that cannot be written.
      Interrupted: a signal came; the state was saved, and the same call resumes.
    """
    mixture = load_mixture(config.data.mixture)  # first, so that a wrong name fails early
    if config.logger == "wandb":
        check_installed("wandb", "wandb")
    setup = TrainSetup(config, devices)
    config, is_main = setup.config, jax.process_index() == 0
    keep = config.checkpoints
    is_primary = keep.keep_best == "primary"
    best_metric = setup.task.primary_metric if is_primary else keep.keep_best
    evaluator = Evaluator(setup, workdir) if config.eval.every else None
    with (
        folder_lock(workdir, "train", run_on_main),
        TrainingCheckpoints(workdir, keep.keep, keep.keep_every, best_metric) as checkpoints,
        SignalHandler(synchronized=is_multiprocess()) as signals,
    ):
        begun = checkpoints.latest_step() is not None
        trained_on: list[TrainingDataset] = []  # of process 0, which writes

        def check() -> None:
            check_same_run(setup, mixture, workdir, resume, begun)
            trained_on.extend(record_training_data(workdir, mixture, config.init.run, begun))
            if evaluator:
                evaluator.check_images(trained_on)

        run_on_main(check)
        metadata = metadata_of(setup, tuple(entry.names() for entry in trained_on))
        restored = checkpoints.restore(setup.functions.state)
        state, first = restored or (setup.init_state(), 0)
        if is_main:
            write_config(workdir, config)
            setup.tokenizer.save(str(epath.Path(workdir) / "tokenizer"))
        lacks_evaluation = bool(evaluator and restored and evaluator.lacks(first))
        if first >= config.steps and not lacks_evaluation:
            if is_main:
                print(f"{workdir} has {first} of {config.steps} steps; nothing to train",
                      file=sys.stderr)  # fmt: skip
            return state
        key = jax.random.key(config.seed + 1)
        step_metrics = StepMetrics(FiniteGuard(config.nonfinite))
        skipped = np.zeros(len(SKIP_REASONS), np.int32)
        divergence, throughput = DivergenceWarning(), Throughput(setup)
        with (
            Logger(workdir, config.steps, config.batch_size, is_main, first) as logger,
            Profiler(config, workdir) as profiler,
        ):
            if is_main and config.logger == "wandb":
                logger.report_to(wandb_run.WandbRun(workdir, to_json(config)))
            if lacks_evaluation:
                found = evaluator.run(state.params, first)
                logger.log(first, {f"eval/{k}": v for k, v in found.items()})
            batches = setup.batches(first)
            for step in range(first, config.steps):
                profiler.before_step(step)
                batch = next(batches)
                skipped += np.bincount(batch.pop("skip_reason"), minlength=len(SKIP_REASONS))
                batch = put_batch(batch, setup.mesh, config.batch_size)
                state, metrics = setup.functions.step(state, batch, key)
                if step == first:
                    jax.block_until_ready(state)
                    release_freed_memory()  # of the first state, and of compiling the step
                done = step + 1
                step_metrics.add(done, metrics)
                last = done == config.steps
                if done % config.log_every == 0 or last:
                    values = step_metrics.means()
                    divergence.add(done, values.get("loss", math.nan))
                    values["learning_rate"] = learning_rate(setup.schedule, state.opt_state)
                    rows = skipped_rows(setup, skipped)
                    check_rows(rows, setup.task.config.name)
                    values["skipped"] = int(rows[1:].sum())
                    logger.log(done, values | throughput.since_last(done))
                evaluation = None
                if evaluator and (done % config.eval.every == 0 or last):
                    try:
                        evaluation = evaluator.run(state.params, done)
                    except UserError:
                        if not is_multiprocess():  # the others may not have failed
                            checkpoints.save(state, metadata)
                        raise
                    logger.log(done, {f"eval/{k}": v for k, v in evaluation.items()})
                    throughput.restart(done)
                stop = signals.should_stop(done)
                is_candidate = evaluation is not None and bool(best_metric)
                if done % keep.every == 0 or last or stop or is_candidate:
                    step_metrics.fetch()  # raises before a checkpoint of a bad run is written
                    check_rows(skipped_rows(setup, skipped), setup.task.config.name)
                    checkpoints.save(state, metadata, evaluation if is_candidate else None)
                if stop:
                    message = f"stopped at step {done}; rerun the same command to resume"
                    raise Interrupted(message, signals.number)
    for reason, count in zip(SKIP_REASONS[1:], skipped_rows(setup, skipped)[1:], strict=True):
        if count and is_main:
            print(f"skipped {count} records: {reason}", file=sys.stderr)
    return state


def metadata_of(setup: TrainSetup, trained_on: tuple[dict[str, Any], ...]) -> Metadata:
    """Returns the metadata that the checkpoints of a run contain."""
    task = setup.config.task
    lm = getattr(task, "lm", None)
    return Metadata(
        model_type=task.model_type,
        model=to_json(setup.config.model),
        prompt=lm.prompt if lm else "",
        max_length=task.max_length,
        task=task.name,
        trained_on=trained_on,
    )


def skipped_rows(setup: TrainSetup, local: np.ndarray) -> np.ndarray:
    """Returns int [R]: rows by SKIP_REASONS over all processes, each of which passes its counts."""
    rows = all_gather(len(setup.rows)).sum()
    return all_gather(local).sum(0) * setup.config.batch_size // rows  # processes may share rows


def check_rows(rows: np.ndarray, task: str) -> None:
    """Raises a UserError if all rows so far were skipped: nothing is learned from such data.

    Args:
      rows: of `skipped_rows`.
    """
    if rows[0] or not rows.sum():
        return
    reasons = zip(SKIP_REASONS[1:], rows[1:], strict=True)
    found = ", ".join(f"{reason} {count:,}" for reason, count in reasons if count)
    raise UserError(
        f"all {rows.sum():,} records so far were skipped ({found}); name a mixture of records that "
        f"task {task} can be trained on"
    )


class Profiler:
    """Traces the steps that `config.profile` names into workdir/profile; a context manager."""

    def __init__(self, config: TrainConfig, workdir: str):
        self._steps = config.profile_steps()
        self._folder = str(epath.Path(workdir) / "profile")
        self._running = False

    def before_step(self, step: int) -> None:
        """Starts or stops the trace if `step` is the first or the last to trace."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._running = True
        if self._running and step == self._steps[1]:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *unused: Any) -> None:
        self._stop()


class Evaluator:
    """Evaluates the parameters of a run on a dataset, without touching its training."""

    def __init__(self, setup: TrainSetup, workdir: str):
        config = setup.config
        self._setup = setup
        setup.task.check_packages(config.task.model_type)
        self._folder = epath.Path(workdir) / "evaluation"
        self._dataset = EvalDataset.load(
            config.eval.dataset,
            config.eval.split,
            config.model.vit.image_size,
            config.eval.limit or None,
            config.model.exif_orientation,
            config.task.num_frames,
        )
        whole = NamedSharding(setup.mesh, PartitionSpec())
        self._replicate = jax.jit(lambda params: params, out_shardings=whole)
        self._training_images = 0

    def check_images(self, trained_on: Sequence[TrainingDataset]) -> None:
        """Raises a UserError for images that are trained on, or marks evaluations with them."""
        self._training_images = count_training_images(self._setup.config.eval, trained_on)

    def lacks(self, step: int) -> bool:
        """Returns whether the evaluation at a step is due and failed; all processes call it."""
        config = self._setup.config
        is_due = step % config.eval.every == 0 or step == config.steps
        exists = (self._folder / str(step) / "metrics.json").exists()
        return is_due and not all_gather(int(exists))[0]

    def run(self, params: dict, step: int) -> dict[str, float]:
        """Returns metrics; writes predictions.jsonl and metrics.json of this step."""
        setup = self._setup
        # Replicates the parameters, then takes this process's arrays, for pmapped functions.
        local = jax.tree.map(lambda x: x.addressable_data(0), self._replicate(params))
        metadata = metadata_of(setup, ())
        model = Model(
            local,
            setup.config.model,
            setup.tokenizer,
            model_type=metadata.model_type,
            prompt=metadata.prompt,
            max_length=metadata.max_length,
        )
        predictions = setup.task.predict(model, self._dataset)
        metrics = setup.task.evaluate(predictions, self._dataset.records)
        if jax.process_index() == 0:
            folder, count = self._folder / str(step), self._training_images
            write_evaluation(folder, predictions, metrics, training_images=count)
        return metrics
