"""Tasks: what is trained and evaluated, one a file.

A new task is a TaskConfig and a Task (base.py) in one file; nothing else has to know it.
"""

from blip_jax.tasks.base import EvaluationTask, InvalidRecord, Task, TaskConfig
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pairs import ItcConfig, ItmConfig, LmConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig
from blip_jax.tasks.video_qa import VideoQaConfig
from blip_jax.tasks.video_retrieval import VideoRetrievalConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig

__all__ = [
    "CaptioningConfig",
    "EvaluationTask",
    "InvalidRecord",
    "ItcConfig",
    "ItmConfig",
    "LmConfig",
    "NlvrConfig",
    "PretrainingConfig",
    "RetrievalConfig",
    "Task",
    "TaskConfig",
    "VideoQaConfig",
    "VideoRetrievalConfig",
    "VisdialConfig",
    "VqaConfig",
]
