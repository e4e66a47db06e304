"""TrainingCheckpoints: the whole state, where the data stood, and what the model is, by Orbax."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization
from orbax.checkpoint import checkpoint_managers

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather, is_multiprocess
from blip_jax.runtime.signals import Interrupted

CHECKPOINT_DIR = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself, so that a workdir can be loaded without its config.

    Attributes:
      model_type: of nn.MODEL_TYPES: which parameters it holds.
      model: `to_json` of the network's BlipConfig.
      prompt: text that its captions begin with; "" for none.
      max_length: tokens of its training texts.
      tokenizer: a name to load it by; "": the folder `tokenizer` of the same workdir.
      task: name of the task that trained it; "" where no run here did.
      trained_on: [{"dataset", "split"}, …] of the mixture.
    """

    model_type: str
    model: dict[str, Any]
    prompt: str
    max_length: int
    tokenizer: str = ""
    task: str = ""
    trained_on: tuple[dict[str, str], ...] = ()


class TrainingCheckpoints:
    """The checkpoints of a run under workdir/checkpoints; a context manager.

    Saving is asynchronous. A checkpoint is whole or it is not there: Orbax writes under a temporary
    name, or on `gs://` marks what is whole; what a crash left unfinished is deleted. Each process
    writes its own part, and reads what it needs of another number of processes.

    Args:
      workdir: folder of the run, local or `gs://`; the same for all processes.
      keep: how many of the newest are kept.
      keep_every: also those at multiples of this many steps; 0: none.
      keep_best: also the one with the highest value of this metric; "": none.
    """

    def __init__(self, workdir: str, keep: int = 1, keep_every: int = 0, keep_best: str = ""):
        self._folder = checkpoint_folder(workdir)
        self._keep_best = keep_best
        if keep_best:
            policies = [
                checkpoint_managers.LatestN(n=keep),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[keep_best],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
            if keep_every:
                policies.append(checkpoint_managers.EveryNSteps(interval_steps=keep_every))
            kept = {"preservation_policy": checkpoint_managers.AnyPreservationPolicy(policies)}
        else:
            kept = {"max_to_keep": keep, "keep_period": keep_every or None}
        options = ocp.CheckpointManagerOptions(create=True, cleanup_tmp_directories=True, **kept)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Interrupted):
            with self._writing():
                self._manager.wait_until_finished()
        elif is_multiprocess():
            return  # close() would wait for the other processes, which do not call it
        else:  # lets a started save complete; `error` is raised in any case
            with contextlib.suppress(UserError), self._writing():
                self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises a one-line UserError if writing a checkpoint fails; removes incomplete files."""
        try:
            yield
        except Exception as error:  # Orbax, TensorStore and file systems raise many types
            if not is_multiprocess():
                remove_unfinished(self._folder)
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"writing a checkpoint to {self._folder} failed ({type(error).__name__}: "
                f"{reason}); fix it and rerun the same command to resume from the previous "
                "checkpoint"
            ) from error

    def save(
        self, state: Any, metadata: Metadata, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves at the state's step, unless that is saved already.

        The data's position is the number of batches consumed, which is the step: every batch
        follows from its number (data/pipeline.py), for any number of processes.

        Args:
          state: a dataclass of pytrees, with the field `step`.
          metrics: of an evaluation at this step, for `keep_best`.

        Raises:
          UserError: it cannot be written, or the metrics lack `keep_best`.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if metrics is not None and self._keep_best not in metrics:
            raise UserError(
                f"checkpoints.keep_best is {self._keep_best!r}; the evaluation has "
                f"{', '.join(sorted(metrics))}"
            )
        if is_multiprocess():  # Orbax's own reductions must not run at the same time as a step's
            jax.block_until_ready(state)
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state_items(state)),
                    data=ocp.args.JsonSave({"next_index": step}),
                    metadata=ocp.args.JsonSave(dataclasses.asdict(metadata)),
                ),
                metrics=None if metrics is None else {self._keep_best: metrics[self._keep_best]},
            )

    def restore(self, like: Any) -> tuple[Any, int] | None:
        """Returns the newest checkpoint and the number of its next batch; None if there is none.

        Args:
          like: the state's shapes, with the shardings it is to have.

        Raises:
          UserError: it holds another model, or the processes see different folders.
        """
        step = self._manager.latest_step()
        # If each host had its own folder, each would contain only a part of every checkpoint.
        seen = all_gather(np.int32(-1 if step is None else step) if self._folder.exists() else -2)
        if len(set(seen.tolist())) > 1:
            raise UserError(
                f"{self._folder} is not the same folder for all processes: give a workdir on "
                "gs:// or another shared file system"
            )
        if step is None:
            return None
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(state_items(like)),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._manager.directory} holds another model than the config's ({reason}); "
                "choose another --workdir"
            ) from error
        values = {
            name: serialization.from_state_dict(getattr(like, name), value)
            for name, value in found["state"].items()
        }
        return dataclasses.replace(like, **values), found["data"]["next_index"]


def checkpoint_folder(workdir: str) -> epath.Path:
    """Returns workdir/checkpoints as an absolute path, which Orbax requires of local paths.

    Bucket URLs stay as they are, since `absolute` spoils `gs://`.
    """
    path = epath.Path(workdir)
    return (path if "://" in workdir else path.absolute()) / CHECKPOINT_DIR


def remove_unfinished(folder: epath.Path) -> None:
    """Removes the files of a failed save from `folder`, so that a full disk has space again.

    After the first error TensorStore's other writes continue. They could add files to a folder that
    is being removed, or to the folder of the same name when the step is saved again.
    """
    for _ in range(100):
        unfinished = list(folder.glob(f"*{ocp.step.TMP_DIR_SUFFIX}*"))
        if not unfinished:
            return
        for path in unfinished:
            with contextlib.suppress(OSError):
                path.rmtree()
        time.sleep(0.1)


def state_items(state: Any) -> dict[str, Any]:
    """Returns a state as nested dicts, which a checkpoint holds without our classes."""
    return {
        field.name: serialization.to_state_dict(getattr(state, field.name))
        for field in dataclasses.fields(state)
    }


def save_model(
    workdir: str, params: dict[str, Any], extra: dict[str, Any], metadata: Metadata
) -> None:
    """Writes a workdir whose only checkpoint has these parameters, at step 0.

    For models that come from elsewhere; a training run starts from it by `init.run`.

    Args:
      extra: momentum weights and queue, as far as there are.

    Raises:
      UserError: there are checkpoints in `workdir` already.
    """
    folder = checkpoint_folder(workdir)
    with ocp.CheckpointManager(folder) as manager:
        if manager.latest_step() is not None:
            raise UserError(f"{workdir} holds checkpoints already; choose another path")
        items = {"params": params, "extra": serialization.to_state_dict(extra)}
        manager.save(
            0,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(items),
                metadata=ocp.args.JsonSave(dataclasses.asdict(metadata)),
            ),
        )


def load_state_items(workdir: str, names: tuple[str, ...]) -> tuple[dict[str, Any], Metadata]:
    """Returns parts of a workdir's newest checkpoint, by their names in the state.

    Empty ones are left out (a captioner has no `extra`). Arrays come on the default device,
    NamedTuples as dicts.

    Raises:
      UserError: there is no checkpoint.
    """
    folder = checkpoint_folder(workdir)
    if not folder.exists():
        raise UserError(
            f"no checkpoint in {workdir}: {CHECKPOINT_DIR}/ is missing there; train it first"
        )
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"no complete checkpoint in {folder}; train it first")
        restored = manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))
    stored = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "state").tree
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        {name: stored[name] for name in names if stored.get(name)},
    )
    # A new manager, since one that has restored another item of the step rejects this one.
    with ocp.CheckpointManager(folder) as manager:
        restore = ocp.args.PyTreeRestore(
            item=like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        items = manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
    return items, Metadata(**restored["metadata"])
