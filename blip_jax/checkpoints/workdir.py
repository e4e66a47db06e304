"""The checkpoints of a workdir, for those who only read them or write a single one.

Orbax is imported where it is used, as it takes 0.2 s, which most models in use do not need.
"""

import dataclasses
import re
from typing import Any

import jax
from etils import epath
from flax import serialization

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.terminal import print_note

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
      trained_on: `TrainingDataset.names` of what the model was trained on; trained_on.json in the
        workdir has the images too.
    """

    model_type: str
    model: dict[str, Any]
    prompt: str
    max_length: int
    tokenizer: str = ""
    task: str = ""
    trained_on: tuple[dict[str, Any], ...] = ()


def checkpoint_folder(workdir: str) -> epath.Path:
    """Returns workdir/checkpoints as an absolute path, which Orbax requires of local paths.

    Bucket URLs stay as they are, since `absolute` spoils `gs://`.
    """
    path = epath.Path(workdir)
    return (path if "://" in workdir else path.absolute()) / CHECKPOINT_DIR


def split_step(path: str) -> tuple[str, int | None]:
    """Returns the workdir and the step that a path names: RUN/checkpoints/300 is step 300 of RUN.

    The step is None of a path that names none.
    """
    match = re.fullmatch(rf"(?:(.+)/)?{CHECKPOINT_DIR}/(\d+)/?", path)
    if not match or (epath.Path(path) / "config.json").exists():  # or it is a Hugging Face folder
        return path, None
    return match[1] or ".", int(match[2])


def is_workdir(path: str) -> bool:
    """Returns whether a path is a workdir with checkpoints, or names a step of one."""
    return (epath.Path(split_step(path)[0]) / CHECKPOINT_DIR).exists()


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
    import orbax.checkpoint as ocp

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
    """Returns parts of a workdir's newest checkpoint, or of the one that `split_step` names.

    Parts have their names in the state. Empty ones are left out (a captioner has no `extra`);
    without names the metadata alone is read. Arrays come on the default device, NamedTuples as
    dicts.

    Raises:
      UserError: there is no checkpoint that can be read. A damaged one is named on stderr, and
        the one before it is used.
    """
    workdir, wanted = split_step(workdir)
    folder = checkpoint_folder(workdir)
    if not folder.exists():
        raise UserError(
            f"no checkpoint in {workdir}: {CHECKPOINT_DIR}/ is missing there; train it first"
        )
    with reading_manager(folder) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
    if wanted is not None and wanted not in steps:
        known = ", ".join(map(str, reversed(steps)))
        raise UserError(f"{workdir} has no checkpoint of step {wanted}; it has {known or 'none'}")
    if wanted is not None:
        steps = [wanted]
    if not steps:
        raise UserError(f"no whole checkpoint in {folder}; train it first")
    for step, older in zip(steps, [*steps[1:], None], strict=False):
        try:
            return _load_step(folder, step, names)
        except Exception as error:  # Orbax, TensorStore and file systems raise many kinds
            report_damage(folder / str(step), error, older)
    raise AssertionError("report_damage raises at the last")


def reading_manager(folder: epath.Path) -> Any:
    """Returns Orbax's manager of the checkpoints in a folder, for this process alone.

    Without its options every method would wait for all processes of a run, also where only one
    of them reads.
    """
    import orbax.checkpoint as ocp

    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
    return ocp.CheckpointManager(folder, options=options)


def _load_step(
    folder: epath.Path, step: int, names: tuple[str, ...]
) -> tuple[dict[str, Any], Metadata]:
    import orbax.checkpoint as ocp

    with reading_manager(folder) as manager:
        restored = manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))
    metadata = Metadata(**restored["metadata"])
    if not names:
        return {}, metadata
    stored = stored_tree(folder, step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        {name: stored[name] for name in names if stored.get(name)},
    )
    # A fresh manager: one that has restored another item of the step does not take this one.
    with reading_manager(folder) as manager:
        restore = ocp.args.PyTreeRestore(
            item=like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        items = manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
    return items, metadata


def report_damage(path: epath.Path, error: Exception | None, older: int | None) -> None:
    """Says that a checkpoint cannot be read, and which older one is used.

    Raises:
      UserError: there is no older one.
    """
    reason = (str(error).strip().splitlines() or [""])[0] if error else "on another process"
    kind = f"{type(error).__name__}: " if error else ""
    found = f"checkpoint {path} is damaged or cut short ({kind}{reason[:200]})"
    if older is None:
        raise UserError(f"{found}, and there is no older one; choose another folder")
    print_note(f"{found}; using the checkpoint of step {older}")


def stored_tree(folder: epath.Path, step: int) -> dict[str, Any]:
    """Returns the arrays of a checkpoint as nested dicts of metadata with shape and dtype."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "state").tree
