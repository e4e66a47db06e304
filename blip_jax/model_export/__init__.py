"""Writes a model as programs that run without this package: StableHLO, or ONNX."""

from blip_jax.model_export.folder import FORMATS, write

__all__ = ["FORMATS", "write"]
