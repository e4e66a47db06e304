"""BLIP in JAX: pre-training, downstream tasks, and CapFilt, from one CPU to a TPU pod."""

import fsspec.config

__version__ = "0.1.0"

# gcsfs would remember what it has once listed of a bucket, and not see what other hosts, or
# TensorStore in this process, write there afterwards.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
