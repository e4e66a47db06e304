"""A run of Weights & Biases that gets the metrics of a training, where `logger` is "wandb"."""

import os
import tempfile
from typing import Any

from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed

ID_FILE = "wandb_run_id.txt"  # in the workdir: a resumed training continues the run of this id
PROJECT = "blip_jax"  # unless WANDB_PROJECT names another


class WandbRun:
    """A run, begun or continued; its variables (WANDB_MODE, WANDB_PROJECT, …) are wandb's own.

    Args:
      workdir: folder of the training, local or `gs://`; local, it also holds wandb's files.
      config: the fields of the training, nested.

    Raises:
      UserError: the service does not take the run.
    """

    def __init__(self, workdir: str, config: dict[str, Any]):
        check_installed("wandb", "wandb")
        import wandb

        folder = epath.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / ID_FILE
        known = file.read_text().strip() if file.exists() else ""
        self._temporary = tempfile.TemporaryDirectory() if "://" in workdir else None
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=known or None,
                resume="allow",
                name=folder.name,
                config=config,
                dir=self._temporary.name if self._temporary else str(folder),
                settings=wandb.Settings(console="off", silent=True),
            )
        except Exception as error:  # of its own types, and of its service's
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"Weights & Biases did not take the run ({reason}); run wandb login, or set "
                "WANDB_MODE=offline"
            ) from error
        file.write_text(f"{self._run.id}\n")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Reports metrics at a step; after a resume, steps that the run has already are dropped."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Ends the run, and waits until the service has it."""
        self._run.finish()
        if self._temporary:
            self._temporary.cleanup()
