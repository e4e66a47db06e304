"""TrainingCheckpoints: the whole state, where the data stood, and what the model is, by Orbax."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather, is_multiprocess
from blip_jax.runtime.signals import Interrupted
from blip_jax.train.state import TrainState

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself, so that a workdir can be loaded with nothing beside it.

    Attributes:
      model: `models.to_dict` of its configuration.
      model_type: what of it the training has trained, one of `nn.MODEL_TYPES`.
      prompt: text that its captions begin with; "" for none.
      max_length: tokens of its training texts.
      tokenizer: a name to load it by; "": the folder `tokenizer` beside the checkpoints.
    """

    model: dict[str, Any]
    model_type: str
    prompt: str
    max_length: int
    tokenizer: str = ""


class TrainingCheckpoints:
    """The checkpoints of a run under workdir/checkpoints; a context manager.

    Saving is asynchronous. A checkpoint is whole or it is not there: Orbax writes under a temporary
    name, or on `gs://` marks what is whole; what a crash left unfinished is deleted. Each process
    writes its own part, and reads what it needs of another number of processes.

    Args:
      workdir: folder of the run, local or `gs://`; the same for all processes.
      keep: how many of the newest stay.
      keep_every: also those at multiples of so many steps; 0: none.
    """

    def __init__(self, workdir: str, keep: int = 1, keep_every: int = 0):
        self._folder = checkpoint_folder(workdir)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            create=True,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Interrupted):
            with self._writing():
                self._manager.wait_until_finished()
        elif is_multiprocess():
            return  # the others are not here: they would be waited for
        else:  # what is under way may still become whole, and the error is told in any case
            with contextlib.suppress(UserError), self._writing():
                self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line what kept a checkpoint from being written, and removes its rest."""
        try:
            yield
        except Exception as error:  # Orbax, TensorStore and file systems raise many kinds
            if not is_multiprocess():
                remove_unfinished(self._folder)
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"no checkpoint could be written in {self._folder} ({type(error).__name__}: "
                f"{reason}); once that is mended, the same command goes on at the one before"
            ) from error

    def save(self, state: TrainState, meta: Metadata) -> None:
        """Saves at the state's step, unless that is saved already.

        The data's position is the number of batches consumed, which is the step: every batch
        follows from its number (data/pipeline.py), for any number of processes.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if is_multiprocess():  # Orbax's own sums must not run beside those of a step
            jax.block_until_ready(state)
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(as_dict(state)),
                    data=ocp.args.JsonSave({"next_index": step}),
                    meta=ocp.args.JsonSave(dataclasses.asdict(meta)),
                ),
            )

    def restore(self, like: TrainState) -> tuple[TrainState, int] | None:
        """The newest checkpoint and the number of its next batch; None if there is none.

        Args:
          like: the state's shapes with the shardings it is wanted in.

        Raises:
          UserError: it holds another model, or the processes see different folders.
        """
        step = self._manager.latest_step()
        # Folders of the hosts' own would hold a part of each checkpoint, and none whole.
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
                    state=ocp.args.StandardRestore(as_dict(like)),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._manager.directory} holds another model than the config's ({reason}); "
                "use a new workdir"
            ) from error
        values = dict(found["state"])
        if like.queue is not None:
            values["queue"] = type(like.queue)(**values["queue"])
        leaves = [leaf for _, leaf in sorted(values["opt_state"].items())]
        opt_state = jax.tree.unflatten(jax.tree.structure(like.opt_state), leaves)
        return TrainState(**{**values, "opt_state": opt_state}), found["data"]["next_index"]


def checkpoint_folder(workdir: str) -> epath.Path:
    """workdir/checkpoints; Orbax wants local paths absolute, and `absolute` spoils `gs://`."""
    path = epath.Path(workdir)
    return (path if "://" in workdir else path.absolute()) / FOLDER


def remove_unfinished(folder: epath.Path) -> None:
    """Removes what a save that failed in this process left in `folder`; a full disk needs it.

    Behind the first error TensorStore's other writes still run: they would add files to a folder
    under removal, and to the one of the same name when the step is saved again.
    """
    for _ in range(100):
        unfinished = list(folder.glob(f"*{ocp.step.TMP_DIR_SUFFIX}*"))
        if not unfinished:
            return
        for path in unfinished:
            with contextlib.suppress(OSError):
                path.rmtree()
        time.sleep(0.1)


def as_dict(state: TrainState) -> dict[str, Any]:
    """The state as nested dicts, which a checkpoint keeps without our classes.

    Leaves of optax's state are numbered, in the order in which JAX lists them.
    """
    leaves = jax.tree.leaves(state.opt_state)
    return {
        "step": state.step,
        "params": state.params,
        "momentum": state.momentum,
        "queue": None if state.queue is None else state.queue._asdict(),
        "opt_state": {f"{number:04d}": leaf for number, leaf in enumerate(leaves)},
    }


def save_model(workdir: str, parts: dict[str, Any], meta: Metadata) -> None:
    """Writes a workdir whose only checkpoint has these parts of a state: params, momentum, queue.

    For models that come from elsewhere; a training starts from it by `init_from`.

    Raises:
      UserError: there are checkpoints in `workdir` already.
    """
    folder = checkpoint_folder(workdir)
    with ocp.CheckpointManager(folder) as manager:
        if manager.latest_step() is not None:
            raise UserError(f"{workdir} holds checkpoints already; give a new folder")
        manager.save(
            0,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(parts),
                meta=ocp.args.JsonSave(dataclasses.asdict(meta)),
            ),
        )


def load_params(workdir: str) -> tuple[dict[str, Any], Metadata]:
    """The parameters alone of a workdir's newest checkpoint, on the default device.

    Raises:
      UserError: there is no checkpoint.
    """
    found, meta = load_parts(workdir, ("params",))
    return found["params"], meta


def load_parts(workdir: str, names: tuple[str, ...]) -> tuple[dict[str, Any], Metadata]:
    """Parts of a workdir's newest checkpoint, by their names in `TrainState`.

    Those that the training has not (a captioner has no queue) are left out. Arrays come on the
    default device, a queue as a dict.

    Raises:
      UserError: there is no checkpoint.
    """
    folder = checkpoint_folder(workdir)
    if not folder.exists():
        raise UserError(f"no checkpoint in {workdir}: {FOLDER}/ is missing there; train it first")
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"no whole checkpoint in {folder}; train it first")
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    stored = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "state").tree
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        {name: stored[name] for name in names if stored.get(name)},
    )
    # A fresh manager: one that has restored another item of the step does not take this one.
    with ocp.CheckpointManager(folder) as manager:
        restore = ocp.args.PyTreeRestore(
            item=like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        return manager.restore(step, args=ocp.args.Composite(state=restore))["state"], Metadata(
            **meta
        )
