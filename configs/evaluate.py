"""Measure a trained model on a dataset, retrieval and captions:

    blip-jax evaluate --workdir runs/eval \\
        --config.model=RUN --config.dataset=DIR --config.split=test

Variants: a task, `captioning`, `retrieval`, `vqa`, `nlvr`, `visdial`, `video_retrieval` or
`video_qa`, alone or with a published dataset, which sets the split that the paper reports:

    blip-jax evaluate --config evaluate:retrieval,flickr30k --workdir runs/eval_flickr30k \\
        --config.model=RUN --config.dataset=DIR

Retrieval: `coco` (test; ITM scores 256 candidates a query) or `flickr30k` (test; 128). Captioning:
`coco` (test) or `nocaps` (val, with scores by domain). VQA: `vqa_v2` (test: submission.json).
NLVR2: `nlvr2` (test1). VisDial: `visdial` (val). Video retrieval: `msrvtt` (test_1k_a). Video QA:
`msrvtt_qa` or `msvd_qa` (test).
"""

from blip_jax.runtime.variants import choose
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
from blip_jax.train import recipes

# What is measured, and on which split of each dataset.
TASKS = {
    "pretraining": (PretrainingConfig(), {"coco": "test"}),
    "captioning": (CaptioningConfig(java_metrics=True), {"coco": "test", "nocaps": "val"}),
    "retrieval": (RetrievalConfig(), {"coco": "test", "flickr30k": "test"}),
    "vqa": (VqaConfig(), {"vqa_v2": "test"}),
    "nlvr": (NlvrConfig(), {"nlvr2": "test1"}),
    "visdial": (VisdialConfig(), {"visdial": "val"}),
    "video_retrieval": (VideoRetrievalConfig(), {"msrvtt": "test_1k_a"}),
    "video_qa": (VideoQaConfig(), {"msrvtt_qa": "test", "msvd_qa": "test"}),
}


def get_config(variant: str = "pretraining") -> EvaluateConfig:
    """`variant`: what is measured, of TASKS, or this and one of its datasets, a comma between."""
    name, _, dataset = variant.partition(",")
    (name,) = choose("evaluate", name, TASKS)
    task, splits = TASKS[name]
    if not dataset:
        return EvaluateConfig(task=task)
    (dataset,) = choose(f"evaluate:{name}", dataset, splits)
    if name == "retrieval":
        task = recipes.retrieval(dataset).task
    return EvaluateConfig(task=task, split=splits[dataset])
