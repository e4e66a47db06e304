"""Tasks: what is trained and evaluated, one a file.

A new task is a TaskConfig and a Task (base.py) in one file; nothing else has to know it.
"""

from blip_jax.tasks.base import EvaluationTask, InvalidRecord, Task, TaskConfig
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.pairs import ItcConfig, ItmConfig, LmConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig

__all__ = [
    "CaptioningConfig",
    "EvaluationTask",
    "InvalidRecord",
    "ItcConfig",
    "ItmConfig",
    "LmConfig",
    "PretrainingConfig",
    "RetrievalConfig",
    "Task",
    "TaskConfig",
]
