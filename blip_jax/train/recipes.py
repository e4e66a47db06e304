"""The paper's recipes: its pre-training, and the fine-tuning for each task and dataset.

Source: configs/*.yaml of the original, and the paper's section 5. ViT-L has a rate of its own where
the paper has such a run (retrieval, captioning), elsewhere half of ViT-B's.
"""

from blip_jax import nn
from blip_jax.runtime.config import replace
from blip_jax.tasks.base import TaskConfig
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig
from blip_jax.tasks.video_qa import VideoQaConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.config import TrainConfig
from blip_jax.train.optimizer import EpochCosine, OptimizerConfig

MODELS = {"vit_b": "base", "vit_l": "large"}  # presets of `nn`
# Pairs of image and text in an epoch of COCO (Karpathy's split) and Flickr30k; questions in one.
PAIRS = {"coco": 566_747, "flickr30k": 145_000}
VQA_QUESTIONS = {
    "vqa_v2_vg": 658_111 + 726_000,  # training and validation, and Visual Genome, as in the paper
    "vqa_v2": 658_111,  # without Visual Genome
}


def pretraining() -> TrainConfig:
    """Returns the pre-training of ViT-B on 14M pairs."""
    return TrainConfig(task=PretrainingConfig())


def captioning(model: str = "vit_b") -> TrainConfig:
    """Returns the fine-tuning of a captioner on COCO (configs/caption_coco.yaml).

    Args:
      model: of MODELS, as in all recipes.
    """
    peak_lr = 1e-5 if model == "vit_b" else 2e-6
    return _fine_tuning(CaptioningConfig(), model, PAIRS["coco"], 5, peak_lr)


def retrieval(dataset: str = "coco", model: str = "vit_b") -> TrainConfig:
    """Returns the fine-tuning for retrieval (configs/retrieval_coco.yaml, retrieval_flickr.yaml).

    On COCO hard negatives are drawn among the whole batch (`negative_all_rank`), on Flickr30k among
    the pairs of one GPU.

    Args:
      dataset: of PAIRS.
    """
    peak_lr = 1e-5 if model == "vit_b" else 5e-6
    config = _fine_tuning(RetrievalConfig(), model, PAIRS[dataset], 6, peak_lr)
    pairs_of_gpu = 32 if model == "vit_b" else 16
    return replace(
        config,
        **{
            "model.remat": "full",  # the original recomputes 4 of ViT-B's 12 layers
            "task.itm.group_size": config.batch_size if dataset == "coco" else pairs_of_gpu,
            "task.itc.alpha_warmup_steps": config.optimizer.schedule.steps_per_epoch,
            "task.rerank_k": 256 if dataset == "coco" else 128,
        },
    )


def vqa(dataset: str = "vqa_v2_vg", model: str = "vit_b") -> TrainConfig:
    """Returns the fine-tuning for VQA v2 (configs/vqa.yaml).

    Args:
      dataset: of VQA_QUESTIONS.
    """
    peak_lr = 2e-5 if model == "vit_b" else 1e-5
    config = _fine_tuning(VqaConfig(), model, VQA_QUESTIONS[dataset], 10, peak_lr)
    settings = {"vit.image_size": 480, "vit.drop_path": 0.1, "med.sharing": "none"}
    return replace(config, **{f"model.{name}": value for name, value in settings.items()})


def video_qa() -> TrainConfig:
    """Returns a fine-tuning of ViT-B for MSRVTT-QA, of 158,581 questions, from a VQA model.

    The paper has none: it evaluates the VQA model as it is.
    """
    task = VideoQaConfig(num_frames=8)
    config = _fine_tuning(task, "vit_b", 158_581, 5, 2e-5, batch_size=64)
    return replace(config, **{"model.vit.drop_path": 0.1, "model.med.sharing": "none"})


def nlvr(model: str = "vit_b") -> TrainConfig:
    """Returns the fine-tuning for NLVR2, of 86,373 statements (configs/nlvr.yaml)."""
    peak_lr = 3e-5 if model == "vit_b" else 1.5e-5
    config = _fine_tuning(NlvrConfig(), model, 86_373, 15, peak_lr)
    return replace(config, **{"model.vit.drop_path": 0.1})


def visdial(model: str = "vit_b") -> TrainConfig:
    """Returns the fine-tuning for VisDial v1.0, of 123,287 dialogs (paper, section 5.5).

    Its code was not released.
    """
    peak_lr = 2e-5 if model == "vit_b" else 1e-5
    return _fine_tuning(VisdialConfig(), model, 123_287, 20, peak_lr, batch_size=240)


def _fine_tuning(
    task: TaskConfig, model: str, examples: int, epochs: int, peak_lr: float, batch_size: int = 256
) -> TrainConfig:
    """Returns what all recipes have: 384 pixels, cosine by epoch, crops of half the image and more.

    Args:
      examples: of an epoch; what is left over from whole batches does not count.
    """
    steps = examples // batch_size
    schedule = EpochCosine(peak_lr=peak_lr, steps_per_epoch=steps)
    large = model == "vit_l"  # the original recomputes layers of ViT-L, to save memory
    return replace(
        TrainConfig(task=task, optimizer=OptimizerConfig(schedule=schedule)),
        model=nn.preset(MODELS[model], vit={"image_size": 384}, remat="full" if large else "none"),
        batch_size=batch_size,
        steps=steps * epochs,
        **{"data.augment.min_crop_area": 0.5},
    )
