"""Which changes a training run allows when it is resumed."""

from typing import Any

from blip_jax.data.mixture import Component
from blip_jax.runtime.fingerprint import (
    Resume,
    check_fingerprint,
    file_digest,
    folder_digest,
)
from blip_jax.train.setup import TrainSetup

# Fields that do not decide what is learned. Paths are left out because contents are compared.
FREE = (
    "config.log_every", "config.logger", "config.profile", "config.topology",
    "config.checkpoints.*", "config.eval.*", "config.nonfinite.*", "config.mesh.*",
    "config.data.num_threads", "config.data.prefetch", "config.data.mixture", "config.tokenizer",
    "config.model.remat", "config.model.scan_unroll", "config.task.rerank_memory_gib",
)  # fmt: skip
# Fields that may change with --resume=anyway.
ADJUSTABLE = ("config.optimizer.*", "config.steps", "config.accumulate_steps")


def train_fingerprint(setup: TrainSetup, mixture: list[Component]) -> dict[str, Any]:
    """Returns the config, and digests of the tokenizer and of each dataset of the mixture."""
    components = {}
    for component in mixture:
        components[component.name] = {
            "split": component.split,
            "weight": component.weight,
            "dataset": folder_digest(component.dataset),
            "scores": component.scores and folder_digest(component.scores),
            "selected": component.selected and file_digest(component.selected),
        }
    return {
        "config": setup.config,
        "tokenizer": setup.tokenizer.digest,
        "mixture": components,
    }


def check_same_run(
    setup: TrainSetup, mixture: list[Component], workdir: str, resume: Resume, begun: bool
) -> None:
    """Raises a UserError if the workdir holds another run; see `check_fingerprint`."""
    values = train_fingerprint(setup, mixture)
    check_fingerprint(
        workdir, "train", values, begun=begun, free=FREE, adjustable=ADJUSTABLE, resume=resume
    )
