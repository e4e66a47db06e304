"""The settings of a training run, with the values of BLIP's pre-training."""

import dataclasses
from typing import Literal

from blip_jax import nn
from blip_jax.data.augment import AugmentConfig
from blip_jax.nn import BlipConfig
from blip_jax.runtime.config import replace, required
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import TaskConfig
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig
from blip_jax.tasks.video_qa import VideoQaConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.optimizer import EpochCosine, OptimizerConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What training reads."""

    mixture: str = required("MIXTURE.json")  # mixture file: datasets and their weights
    augment: AugmentConfig = AugmentConfig()
    num_threads: int = 2  # number of threads that read and augment
    prefetch: int = 8  # number of batches that are prepared ahead


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Parameters to start from; empty: random ones."""

    # Another run's workdir, a Hugging Face folder or id, or a .pth file of the original.
    run: str = ""
    vit: str = ""  # a ViT (.pth or .npz of DeiT, augreg) for the image transformer
    text_encoder: str = ""  # a BERT (Hugging Face folder or id) for the text transformer

    def __post_init__(self):
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

    every: int = 1000  # steps between checkpoints
    keep: int = 1  # number of newest checkpoints that are kept
    keep_every: int = 0  # also keep those at multiples of this many steps; 0: none
    # Also keep the checkpoint with the highest value of this evaluation metric, as itc/r@1; the
    # task's own metric: primary.
    keep_best: str = ""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation while training."""

    every: int = 0  # steps between evaluations; the last step is evaluated too; 0: none
    dataset: str = ""  # folder of the dataset with features.json
    split: str = "val"  # split of the dataset
    limit: int = 0  # evaluate only this many images; 0: all

    def __post_init__(self):
        if self.every and not self.dataset:
            raise UserError("eval.every is set but eval.dataset is empty; give it a dataset folder")


@dataclasses.dataclass(frozen=True)
class NonfiniteConfig:
    """What happens at steps whose loss or gradient is not finite."""

    action: Literal["stop", "skip"] = "stop"  # end the run, or leave the step out and continue
    max_in_a_row: int = 10  # end the run after this many skipped steps in a row

    def __post_init__(self):
        if self.max_in_a_row < 1:
            raise UserError(f"nonfinite.max_in_a_row is {self.max_in_a_row}; it must be 1 or more")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    task: TaskConfig = PretrainingConfig()  # what is trained; its class is set in the config file
    model: BlipConfig = nn.preset("base")
    tokenizer: str = "bert-base-uncased"  # hub id or folder; its size sets model.med.vocab_size
    data: DataConfig = DataConfig()
    init: InitConfig = InitConfig()
    batch_size: int = 2880  # pairs per batch, over all devices
    accumulate_steps: int = 1  # micro-batches per step; their gradients are summed
    steps: int = 98_000  # number of steps of the run
    seed: int = 0  # seed of parameters, data order, augmentation, dropout and negatives
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    log_every: int = 50  # steps between lines of metrics
    profile: str = ""  # steps to trace with jax.profiler, as 100:110; empty: none
    topology: str = ""  # TPU topology that `blip-jax compile` compiles for, as v5p:2x4x4

    def __post_init__(self):
        for name in ("batch_size", "accumulate_steps", "steps", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
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
        return int(first), int(last)


def pretraining(**changes) -> TrainConfig:
    """Returns the paper's pre-training of ViT-B on 14M pairs; `changes` by `config.replace`."""
    return replace(TrainConfig(), **changes)


def captioning(**changes) -> TrainConfig:
    """Returns the fine-tuning of a captioner on COCO (configs/caption_coco.yaml)."""
    return replace(_fine_tuning(CaptioningConfig(), epochs=5), **changes)


def retrieval(**changes) -> TrainConfig:
    """Returns the fine-tuning for retrieval on COCO (configs/retrieval_coco.yaml)."""
    return replace(_fine_tuning(RetrievalConfig(), epochs=6), **changes)


def vqa(**changes) -> TrainConfig:
    """Returns the fine-tuning for VQA v2 with Visual Genome's questions (configs/vqa.yaml)."""
    # 658,000 questions of training and validation, 726,000 of Visual Genome.
    schedule = EpochCosine(peak_lr=2e-5, steps_per_epoch=5400)
    config = _fine_tuning(VqaConfig(), 10, schedule)
    model = {"vit.image_size": 480, "vit.drop_path": 0.1, "med.sharing": "none"}
    return replace(config, **{f"model.{name}": value for name, value in model.items()} | changes)


def video_qa(**changes) -> TrainConfig:
    """Returns the fine-tuning for MSRVTT-QA from a VQA model, of which the paper has none."""
    schedule = EpochCosine(peak_lr=2e-5, steps_per_epoch=2477)  # 158,581 questions
    config = replace(_fine_tuning(VideoQaConfig(num_frames=8), 5, schedule), batch_size=64)
    model = {"vit.drop_path": 0.1, "med.sharing": "none"}
    return replace(config, **{f"model.{name}": value for name, value in model.items()} | changes)


def nlvr(**changes) -> TrainConfig:
    """Returns the fine-tuning for NLVR2 (configs/nlvr.yaml)."""
    schedule = EpochCosine(peak_lr=3e-5, steps_per_epoch=337)  # 86,373 statements
    config = _fine_tuning(NlvrConfig(), 15, schedule)
    return replace(config, **{"model.vit.drop_path": 0.1} | changes)


def visdial(**changes) -> TrainConfig:
    """Returns the fine-tuning for VisDial v1.0 (paper, section 5.5); its code was not released."""
    schedule = EpochCosine(peak_lr=2e-5, steps_per_epoch=514)  # 123,287 dialogs
    config = replace(_fine_tuning(VisdialConfig(), 20, schedule), batch_size=240)
    return replace(config, **changes)


def _fine_tuning(task: TaskConfig, epochs: int, schedule: EpochCosine | None = None) -> TrainConfig:
    schedule = schedule or EpochCosine()
    return replace(
        TrainConfig(task=task, optimizer=OptimizerConfig(schedule=schedule)),
        batch_size=256,
        steps=schedule.steps_per_epoch * epochs,
        **{"model.vit.image_size": 384, "data.augment.min_crop_area": 0.5},
    )
