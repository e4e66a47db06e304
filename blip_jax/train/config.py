"""The settings of a training run, with the values of BLIP's pre-training."""

import dataclasses
from typing import Literal

from blip_jax import nn
from blip_jax.data.augment import AugmentConfig
from blip_jax.nn import BlipConfig
from blip_jax.runtime.arguments import NonNegative, Positive, Seed, check_fields
from blip_jax.runtime.config import required
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import TaskConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What training reads."""

    mixture: str = required("MIXTURE.json")  # mixture file: datasets and their weights
    augment: AugmentConfig = AugmentConfig()
    num_threads: NonNegative = 2  # number of threads that read and augment
    prefetch: NonNegative = 8  # number of batches that are prepared ahead

    def __post_init__(self):
        check_fields(self, "data.")


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Parameters to start from; empty: random ones."""

    # Another run's workdir, a Hugging Face folder or id, or a .pth file of the original.
    run: str = ""
    vit: str = ""  # a ViT (.pth or .npz of DeiT, augreg) for the image transformer
    text_encoder: str = ""  # a BERT (Hugging Face folder or id) for the text transformer

    def __post_init__(self):
        check_fields(self, "init.")
        if self.run and (self.vit or self.text_encoder):
            raise UserError(
                "init.run and init.vit or init.text_encoder are both given; give one of them"
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one may be -1, which takes what the others leave."""

    data: int = -1  # number of groups of devices with different data and equal parameters
    fsdp: int = 1  # number of parts into which parameters and moments are split
    tensor: int = 1  # number of parts into which heads, MLP and vocabulary are split


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    every: Positive = 1000  # steps between checkpoints
    keep: Positive = 1  # number of newest checkpoints that are kept
    keep_every: NonNegative = 0  # also keep those at multiples of this many steps; 0: none
    # Also keep the checkpoint with the highest value of this evaluation metric, as itc/r@1; the
    # task's own metric: primary.
    keep_best: str = ""

    def __post_init__(self):
        check_fields(self, "checkpoints.")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation while training."""

    every: NonNegative = 0  # steps between evaluations; the last step is evaluated too; 0: none
    dataset: str = ""  # folder of the dataset with features.json
    split: str = "val"  # split of the dataset
    limit: NonNegative = 0  # evaluate only this many images; 0: all
    # Evaluate also on images that the model is trained on; the results are marked.
    allow_training_images: bool = False

    def __post_init__(self):
        check_fields(self, "eval.")
        if self.every and not self.dataset:
            raise UserError("eval.every is set but eval.dataset is empty; give it a dataset folder")


@dataclasses.dataclass(frozen=True)
class NonfiniteConfig:
    """What happens at steps whose loss or gradient is not finite."""

    action: Literal["stop", "skip"] = "stop"  # end the run, or leave the step out and continue
    max_in_a_row: Positive = 10  # end the run after this many skipped steps in a row

    def __post_init__(self):
        check_fields(self, "nonfinite.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    task: TaskConfig = PretrainingConfig()  # what is trained; its class is set in the config file
    model: BlipConfig = nn.preset("base")
    tokenizer: str = "bert-base-uncased"  # hub id or folder; its size sets model.med.vocab_size
    # How captions and questions are cleaned up, wherever the model reads them: "blip" (lower case,
    # no punctuation, 30 words), "unicode" (for other languages: NFKC, case kept, punctuation of all
    # scripts, in scripts without blanks two characters count as a word), or "" as the tokenizer's
    # folder says, else blip.
    text_cleanup: Literal["", "blip", "unicode"] = ""
    data: DataConfig = DataConfig()
    init: InitConfig = InitConfig()
    batch_size: Positive = 2880  # pairs per batch, over all devices
    accumulate_steps: Positive = 1  # micro-batches per step; their gradients are summed
    steps: Positive = 98_000  # number of steps of the run
    seed: Seed = 0  # seed of parameters, data order, augmentation, dropout and negatives
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    log_every: Positive = 50  # steps between lines of metrics
    # Metrics go to files (metrics.jsonl, TensorBoard), or to Weights & Biases too.
    logger: Literal["files", "wandb"] = "files"
    profile: str = ""  # steps to trace with jax.profiler, as 100:110; empty: none
    topology: str = ""  # TPU topology that `blip-jax compile` compiles for, as v5p:2x4x4

    def __post_init__(self):
        check_fields(self)
        if self.checkpoints.keep_best and not self.eval.every:
            raise UserError("checkpoints.keep_best needs eval.every; set it to a number of steps")
        self.profile_steps()  # raises a UserError

    def profile_steps(self) -> tuple[int, int] | None:
        """Returns the first and the last step (excluded) to trace; None: none."""
        if not self.profile:
            return None
        first, _, last = self.profile.partition(":")
        if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise UserError(f"profile is {self.profile!r}; give FIRST:LAST steps, as 100:110")
        if int(first) >= self.steps:
            raise UserError(f"profile is {self.profile!r}, but the run has {self.steps} steps")
        return int(first), int(last)
