"""TrainingCheckpoints: the whole state, where the data stood, and what the model is, by Orbax."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict
from orbax.checkpoint import checkpoint_managers

from blip_jax.checkpoints.workdir import (
    Metadata,
    checkpoint_folder,
    report_damage,
    stored_tree,
)
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.processes import all_gather, is_multiprocess
from blip_jax.runtime.signals import Interrupted

# Bytes of an array for each of its replicas, from which the replicas share writing it. Slicing the
# small ones costs more than it spares: Orbax compiles a program for each shape and device.
MIN_SLICE_BYTES = 2**20


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
        self._damaged: set[int] = set()  # steps of checkpoints that cannot be read
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
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=options,
            item_handlers={
                "state": _state_handler(),
                "data": ocp.JsonCheckpointHandler(),
                "metadata": ocp.JsonCheckpointHandler(),
            },
        )

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
          UserError: it cannot be written, or an array is not finite; or the metrics lack
            `keep_best`, then it is saved.
        """
        step = int(state.step)
        if step in self._damaged:
            self._manager.delete(step)
            self._damaged.remove(step)
        if step in self._manager.all_steps():
            return
        best = None
        if metrics is not None and self._keep_best in metrics:
            best = {self._keep_best: metrics[self._keep_best]}
        self._check_finite(state, step)
        if is_multiprocess():  # Orbax's own reductions must not run at the same time as a step's
            jax.block_until_ready(state)
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state_items(state)),
                    data=ocp.args.JsonSave({"next_index": step}),
                    metadata=ocp.args.JsonSave(dataclasses.asdict(metadata)),
                ),
                metrics=best,
            )
        if metrics is not None and best is None:
            raise UserError(
                f"checkpoints.keep_best is {self._keep_best!r}, but the evaluation has "
                f"{', '.join(sorted(metrics))}; set one of these and rerun the same command to "
                f"resume from step {step}"
            )

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def _check_finite(self, state: Any, step: int) -> None:
        """Raises a UserError if the state has an array with NaN or infinity."""
        flags = jax.device_get(_finite_flags(state_items(state)))
        bad = [path for path, finite in jax.tree_util.tree_leaves_with_path(flags) if not finite]
        if bad:
            name = jax.tree_util.keystr(bad[0], simple=True, separator="/")
            more = f" and {len(bad) - 1} more arrays" if len(bad) > 1 else ""
            raise UserError(
                f"{name}{more} are not finite at step {step}; this checkpoint is not written, and "
                "the last one stays; lower the learning rate, or clip the gradient's norm"
            )

    def restore(self, like: Any) -> tuple[Any, int] | None:
        """Returns the newest readable checkpoint and the number of its next batch, or None.

        A damaged checkpoint is named on stderr, and the one before it is tried.

        Args:
          like: the state's shapes, with the shardings it is to have.

        Raises:
          UserError: it is of another model, all are damaged, or the processes see different
            folders.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        # If each host had its own folder, each would contain only a part of every checkpoint.
        newest = steps[0] if steps else -1
        seen = all_gather(np.int32(newest) if self._folder.exists() else np.int32(-2))
        if len(set(seen.tolist())) > 1:
            raise UserError(
                f"{self._folder} is not the same folder for all processes: give a workdir on "
                "gs:// or another shared file system"
            )
        items = state_items(like)
        placement = ocp.checkpoint_utils.construct_restore_args(items)
        for step, older in zip(steps, [*steps[1:], None], strict=False):
            error = None
            try:
                self._check_shapes(step, items)
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeRestore(items, restore_args=placement),
                        data=ocp.args.JsonRestore(),
                    ),
                )
            except UserError:
                raise
            except Exception as exception:  # Orbax, TensorStore and file systems raise many kinds
                error = exception
            if all_gather(np.int32(error is not None)).any():
                report_damage(self._folder / str(step), error, older)
                self._damaged.add(step)
                continue
            values = {
                name: serialization.from_state_dict(getattr(like, name), value)
                for name, value in found["state"].items()
            }
            return dataclasses.replace(like, **values), found["data"]["next_index"]
        return None

    def _check_shapes(self, step: int, items: dict[str, Any]) -> None:
        """Raises a UserError if the checkpoint's arrays are not those of `items`."""
        stored = flatten_dict(stored_tree(self._folder, step), sep="/")
        wanted = flatten_dict(items, sep="/")
        for name in sorted(stored.keys() | wanted.keys()):
            shapes = [getattr(tree.get(name), "shape", None) for tree in (stored, wanted)]
            if shapes[0] != shapes[1]:
                told = ["absent" if shape is None else list(shape) for shape in shapes]
                raise UserError(
                    f"{self._folder} is of another model than the config's ({name} is {told[0]}, "
                    f"the config's {told[1]}); choose another --workdir"
                )


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns Orbax's handler of pytrees, in which replicas share the writing of large arrays."""
    types = ocp.type_handlers
    arrays = types.ArrayHandler(min_slice_bytes_for_replica_parallel=MIN_SLICE_BYTES)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=types.create_type_handler_registry(
            (jax.Array, arrays),
            (np.ndarray, types.NumpyHandler()),
            *((kind, types.ScalarHandler()) for kind in (int, float, np.number)),
        )
    )


@jax.jit
def _finite_flags(tree: Any) -> Any:
    """Returns for each array whether all of its numbers are finite."""
    return jax.tree.map(
        lambda x: jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.floating) else True, tree
    )


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
