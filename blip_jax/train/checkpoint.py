"""Checkpoints: the whole state, where the data stood, and what the model is, by Orbax."""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from blip_jax.errors import UserError
from blip_jax.train.state import TrainState

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself, so that a workdir can be loaded with nothing beside it.

    Attributes:
      model: `models.to_dict` of its configuration.
      kind: what of it the training has trained, one of `models.KINDS`.
      prompt: text that its captions begin with; "" for none.
      max_length: tokens of its training texts.
      tokenizer: a name to load it by; "": the folder `tokenizer` beside the checkpoints.
    """

    model: dict[str, Any]
    kind: str
    prompt: str
    max_length: int
    tokenizer: str = ""


class Checkpoints:
    """The checkpoints of a run under workdir/checkpoints; a context manager.

    Saving is asynchronous. A checkpoint is whole or it is not there: Orbax writes under a temporary
    name.

    Args:
      workdir: folder of the run, local or `gs://`.
      keep: how many of the newest stay.
    """

    def __init__(self, workdir: str, keep: int = 1):
        folder = checkpoint_folder(workdir)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *unused: Any) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState, meta: Meta) -> None:
        """Saves at the state's step, unless that is saved already.

        The data's position is the number of batches consumed, which is the step: every batch
        follows from its number (data/pipeline.py), for any number of processes.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
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
          UserError: it holds another model.
        """
        step = self._manager.latest_step()
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


def save_model(workdir: str, parts: dict[str, Any], meta: Meta) -> None:
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


def load_params(workdir: str) -> tuple[dict[str, Any], Meta]:
    """The parameters alone of a workdir's newest checkpoint, on the default device.

    Raises:
      UserError: there is no checkpoint.
    """
    found, meta = load_parts(workdir, ("params",))
    return found["params"], meta


def load_parts(workdir: str, names: tuple[str, ...]) -> tuple[dict[str, Any], Meta]:
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
        return manager.restore(step, args=ocp.args.Composite(state=restore))["state"], Meta(**meta)
