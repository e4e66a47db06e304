"""The one training loop: shapes, shardings, state, step; then batch after batch."""

import contextlib
import dataclasses
import sys
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from blip_jax import nn
from blip_jax.checkpoints.pretrained_encoders import load_pretrained_encoders
from blip_jax.checkpoints.sources import local_copy
from blip_jax.checkpoints.training import Metadata, TrainingCheckpoints, load_params
from blip_jax.data.augment import TrainTransform
from blip_jax.data.pipeline import SKIP_REASONS, train_batches
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather, is_multiprocess
from blip_jax.runtime.signals import Interrupted, Interruptible
from blip_jax.tasks import MODEL_TYPES
from blip_jax.tasks.pairs import select
from blip_jax.train import config as run_config
from blip_jax.train.logger import Logger
from blip_jax.train.mesh import check_batch, make_mesh, own_rows, put_batch
from blip_jax.train.optimizer import schedule
from blip_jax.train.setup import program
from blip_jax.train.state import TrainState


class Run:
    """All that a config stands for, built but not started.

    Args:
      devices: those to train on; None: all, of all processes.
      tokenizer: in place of the config's; what is only compiled needs no vocabulary.

    Attributes:
      tokenizer, model, mesh, schedule: as the config says.
      program: what runs on the devices.
    """

    def __init__(
        self,
        config: ConfigDict,
        devices: list | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        self.config = config
        self.tokenizer = tokenizer or Tokenizer.load(config.tokenizer)
        self.model = run_config.model_config(config, self.tokenizer.vocab_size)
        prompt_length = len(self.tokenizer.prompt(config.prompt)) if config.prompt else 0
        objectives = run_config.objectives(config, prompt_length)
        self.mesh = make_mesh(config.mesh, devices)
        check_batch(config.batch_size, config.accumulate, objectives.group, self.mesh)
        if config.max_length > self.model.med.max_length:
            raise UserError(
                f"max_length is {config.max_length}, the model's med.max_length "
                f"{self.model.med.max_length}: make it at least as long"
            )
        self.schedule = schedule(config.optimizer)
        self.program = program(
            self.model, self.model_type, objectives, config.optimizer, config.accumulate, self.mesh
        )

    def init(self) -> TrainState:
        """A fresh state in its place on the mesh; parameters from elsewhere where given."""
        config, key = self.config, jax.random.key(self.config.seed)
        if config.init_from and any(config.initial.values()):
            raise UserError("init_from and initial are both given: take one of them")
        if config.init_from:
            params = pretrained(config.init_from, self.model, self.model_type)
        elif any(config.initial.values()):
            params = jax.jit(nn.init, static_argnums=(0, 2))(self.model, key, self.model_type)
            params = initialised(params, self.model, **config.initial)
        else:
            return self.program.init(key)
        # To the host first: they come on one device, and the state lies on all of the mesh.
        return self.program.start(jax.device_get(params), key)

    @property
    def rows(self) -> np.ndarray:
        """Which rows of a batch this process reads."""
        return own_rows(self.mesh, self.config.batch_size)

    @property
    def model_type(self) -> str:
        """What of the model is trained, and so what there is of it."""
        return MODEL_TYPES[self.config.task]

    def batches(self, start: int) -> Any:
        """This process's rows of the batches from number `start` on."""
        config = self.config
        size = self.model.vit.image_size
        augment = config.augment
        options = {} if augment.randaugment else {"randaugment": None}
        crop = (augment.crop, 1.0) if augment.crop < 1 else None
        return train_batches(
            config.mixture,
            self.tokenizer,
            start=start,
            rows=self.rows,
            batch_size=config.batch_size,
            image_size=size,
            max_length=config.max_length,
            seed=config.seed,
            prompt=config.prompt,
            transform=TrainTransform(size, scale=crop, flip=augment.flip, **options),
        )

    def counted(self, aside: np.ndarray) -> np.ndarray:
        """int [R]: pairs by reason over all processes; each of them calls it, with its own."""
        rows = all_gather(len(self.rows)).sum()
        return all_gather(aside).sum(0) * self.config.batch_size // rows  # some may share rows

    @property
    def meta(self) -> Metadata:
        config = self.config
        return Metadata(nn.to_dict(self.model), self.model_type, config.prompt, config.max_length)


def train(config: ConfigDict, workdir: str, devices: list | None = None) -> TrainState:
    """Trains to `config.steps`, from the newest checkpoint in `workdir` if there is one.

    Writes checkpoints, metrics.jsonl, TensorBoard events and the tokenizer under `workdir`. Of
    several processes each reads its rows and saves its part of the state; the first alone writes
    the rest.

    Returns: the last state.

    Raises:
      UserError: bad config or data, or a checkpoint that cannot be written.
      Interrupted: a signal came; the state was saved, and the same call goes on from there.
    """
    run = Run(config, devices)
    main = jax.process_index() == 0
    with (
        TrainingCheckpoints(workdir, config.keep, config.keep_every) as checkpoints,
        Interruptible(together=is_multiprocess()) as interruption,
    ):
        restored = checkpoints.restore(run.program.shapes)
        state, first = restored or (run.init(), 0)
        if main:
            run.tokenizer.save(str(epath.Path(workdir) / "tokenizer"))
        if first >= config.steps:
            return state
        key = jax.random.key(config.seed + 1)
        reports, aside = [], np.zeros(len(SKIP_REASONS), np.int32)
        with Logger(workdir, config.steps, config.batch_size, main, first) as logger:
            batches = run.batches(first)
            for step in range(first, config.steps):
                batch = next(batches)
                aside += np.bincount(batch.pop("reason"), minlength=len(SKIP_REASONS))
                batch = put_batch(batch, run.mesh, config.batch_size)
                state, metrics = run.program.step(state, batch, key)
                reports.append(metrics)
                done = step + 1
                last = done == config.steps
                if done % config.log_every == 0 or last:
                    values = report(reports, run.counted(aside), float(run.schedule(step)))
                    logger.log(done, values)
                    reports.clear()
                stop = interruption.at(done)
                if done % config.save_every == 0 or last or stop:
                    checkpoints.save(state, run.meta)
                if stop:
                    message = f"stopped at step {done}; the same command goes on there"
                    raise Interrupted(message, interruption.number)
    for reason, count in zip(SKIP_REASONS[1:], run.counted(aside)[1:], strict=True):
        if count and main:
            print(f"set aside: {count} pairs, {reason}", file=sys.stderr)
    return state


def pretrained(workdir: str, model: nn.BlipConfig, model_type: str) -> dict:
    """The newest parameters of `workdir` that `model_type` has, with positions for its image size.

    Raises:
      UserError: it holds another model in more than the image size, or a part is not in it.
    """
    params, meta = load_params(workdir)
    theirs, ours = nn.from_dict(meta.model), model
    same_size = dataclasses.replace(theirs.vit, image_size=ours.vit.image_size)
    for name, a, b in (("vit", same_size, ours.vit), ("med", theirs.med, ours.med)):
        for field in dataclasses.fields(a):
            values = getattr(a, field.name), getattr(b, field.name)
            if values[0] != values[1] and not field.name.endswith(("_std", "dropout", "drop_path")):
                raise UserError(
                    f"init_from {workdir} has {name}.{field.name} {values[0]}, the config "
                    f"{values[1]}: make them equal"
                )
    position = nn.resize_position_embedding(params["vit"]["position"], ours.vit.tokens)
    params = {**params, "vit": {**params["vit"], "position": position}}
    try:
        return select(params, nn.param_shapes(model, model_type))
    except KeyError as error:
        raise UserError(
            f"init_from {workdir} holds a {meta.model_type} model without {error}, which a "
            f"{model_type} model begins with; start from a pre-training"
        ) from error


def initialised(params: dict, model: nn.BlipConfig, vit: str, text: str) -> dict:
    """Fresh parameters with the networks of other models in their place (paper, section 4.1)."""
    with contextlib.ExitStack() as stack:
        paths = [path and stack.enter_context(local_copy(path)) for path in (vit, text)]
        return load_pretrained_encoders(params, model, *paths)


def report(reports: list[dict], aside: np.ndarray, rate: float) -> dict[str, float]:
    """Means over the steps since the last report, learning rate, and pairs set aside so far."""
    values = jax.device_get(reports)
    means = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
    return {**means, "learning_rate": rate, "skipped": int(aside[1:].sum())}
