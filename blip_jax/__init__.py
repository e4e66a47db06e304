"""BLIP in JAX: pre-training, downstream tasks, and CapFilt, from one CPU to a TPU pod."""

__version__ = "0.1.0"
