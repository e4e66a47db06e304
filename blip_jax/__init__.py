"""BLIP in JAX: pre-training, downstream tasks, and CapFilt, from one CPU to a TPU pod."""

import fsspec.config

__version__ = "0.1.0"

# gcsfs caches the listing of a bucket, so it would not see files that other hosts, or TensorStore
# in this process, write there afterwards.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
