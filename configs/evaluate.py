"""Measure a trained model on a dataset, retrieval and captions:

    blip-jax evaluate --workdir runs/eval \\
        --config.model=RUN --config.dataset=DIR --config.split=test

`--config evaluate:TASK` measures one task by its recipe: captioning, retrieval, vqa, nlvr,
visdial, video_retrieval, video_qa.
"""

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint
from blip_jax.tasks import (
    CaptioningConfig,
    NlvrConfig,
    PretrainingConfig,
    RetrievalConfig,
    VideoQaConfig,
    VideoRetrievalConfig,
    VisdialConfig,
    VqaConfig,
)
from blip_jax.tasks.evaluate import EvaluateConfig

TASKS = {
    "pretraining": PretrainingConfig,
    "captioning": lambda: CaptioningConfig(java_metrics=True),
    "retrieval": RetrievalConfig,
    "vqa": VqaConfig,
    "nlvr": NlvrConfig,
    "visdial": VisdialConfig,
    "video_retrieval": VideoRetrievalConfig,
    "video_qa": VideoQaConfig,
}


def get_config(task: str = "pretraining") -> EvaluateConfig:
    """`task`: what is measured, of TASKS."""
    if task not in TASKS:
        raise UserError(f"config evaluate has no variant {task!r}; {hint(task, TASKS)}")
    return EvaluateConfig(task=TASKS[task]())
