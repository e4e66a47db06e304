"""All downstream tasks on the Shapes dataset, over three seeds:

    blip-jax compare --config shapes_tasks --workdir runs/shapes_tasks

Each task is fine-tuned from one pre-training, trained from scratch for as many steps, and, where
the texts say something, fine-tuned on blank images. The settings were chosen on the validation
split; the table is of the test split.
"""

import pathlib
import runpy

from blip_jax import nn
from blip_jax.comparison import ComparisonConfig
from blip_jax.runtime.config import replace
from blip_jax.train.config import TrainConfig
from blip_jax.train.optimizer import WarmupCosine

shapes = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes.py")))
MAX_LENGTH = 40  # tokens of a caption, three rounds of a dialog and an option
CAPTION_LENGTH = 20
FRAMES = 4  # of a clip, which shows one object in its first half and another in the second
CONTRAST = {"queue_size": 0, "momentum": 0.9, "alpha_warmup_steps": 400}


def get_config() -> ComparisonConfig:
    config = ComparisonConfig()
    world = shapes["get_config"]().world
    names = [*config.tasks, "full_captions", "short_captions"]
    scenes = shapes["dataset"]("vqa", world).world
    places = {name: "" if "captions" in name else ".dataset" for name in names}
    config = replace(config, **{f"{name}{place}.world": scenes for name, place in places.items()})
    group, captions = {"itm": {"group_size": 64}}, {"train": 2000, "val": 500, "test": 500}
    answers = {"max_length": 16, "max_answer_length": 6, "max_answers": 3, "label_smoothing": 0.0}
    pretraining = shapes["small"](config.pretraining, steps=1500, peak_lr=3e-3, min_lr=1e-6)
    pretraining = replace(
        pretraining,
        task={"itc": {**CONTRAST, "positives": "text"}, **group},
        **{"model.med.max_length": MAX_LENGTH},
    )
    return replace(
        config,
        full_captions={"train": 8000, "val": 0, "test": 0, "captions_per_image": 2, "seed": 100},
        short_captions={
            "train": 8000, "val": 0, "test": 0, "noise_share": 0.0, "short_share": 1.0, "seed": 100,
        },
        pretraining=pretraining,
        retrieval={
            "dataset": captions,
            "train": small(
                config.retrieval.train,
                300,
                task={"max_length": CAPTION_LENGTH, "rerank_k": 16, "gallery_size": 500,
                      "itc": {**CONTRAST, "positives": "image"}, **group},
            ),
        },
        captioning={
            "dataset": captions,
            "train": small(
                config.captioning.train,
                300,
                task={"max_length": CAPTION_LENGTH + 3, "lm": {"label_smoothing": 0.0}},
            ),
        },
        vqa={
            "train": small(
                config.vqa.train,
                2000,
                {"med.sharing": "none"},
                task=answers,
            )
        },
        nlvr={
            "train": small(config.nlvr.train, 2000, task={"max_length": 16, "swap_images": False})
        },
        visdial={"train": small(config.visdial.train, 400, task={"max_length": 36})},
        video_retrieval={
            "task": replace(config.video_retrieval.task, num_frames=FRAMES, rerank_k=16)
        },
        video_qa={
            "train": small(
                config.video_qa.train,
                600,
                {"med.sharing": "none"},
                task={**answers, "num_frames": FRAMES},
            )
        },
    )  # fmt: skip


def small(config: TrainConfig, steps: int, model: dict | None = None, **changes) -> TrainConfig:
    """The pre-training's model, and a schedule that fits these datasets."""
    tiny = nn.preset("tiny", vit={"heads": 2}, med={"heads": 2, "mlp_dim": 128})
    return replace(
        config,
        model=replace(tiny, **{"med.max_length": MAX_LENGTH}, **(model or {})),
        batch_size=64,
        steps=steps,
        optimizer={
            "schedule": WarmupCosine(peak_lr=1e-3, min_lr=0.0, warmup_steps=50),
            "b2": 0.95,
            "clip_norm": 1.0,
        },
        **{
            "data.augment": {"min_crop_area": 1.0, "flip": "none", "randaugment": False},
            "checkpoints.every": 1000,
        },
        **changes,
    )
