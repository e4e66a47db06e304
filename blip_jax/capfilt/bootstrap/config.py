"""The fields of a bootstrap run. A config file starts from `defaults`."""

from ml_collections import ConfigDict

from blip_jax.train import config as train_config

# Web texts that each arm of the comparison trains on, in addition to the human pairs:
# (origins, whether the filter selects among them).
ARMS = {
    "none": (("web",), False),
    "filter": (("web",), True),
    "captioner": (("web", "synthetic"), False),
    "both": (("web", "synthetic"), True),
    # A random subset of the web texts of the size of "filter": the effect of fewer texts alone.
    "random": (("web",), False),
    "human": ((), False),
}


def defaults() -> ConfigDict:
    """The Shapes dataset with the paper's four arms; a config changes sizes and schedules."""
    config = ConfigDict({
        "title": "CapFilt on the Shapes dataset",
        "seeds": (0,),  # several: all is done for each, and the table gives mean and spread
        "arms": ("none", "filter", "captioner", "both"),
        # Datasets on disk (folders with features.json); "" draws them from the Shapes dataset.
        "human": "",
        "web": "",
        "test": "",
        "tokenizer": "",  # hub id or folder; "" trains a WordPiece on the training texts
        "vocab_size": 400,
        "world": ConfigDict({
            "image_size": 32, "cells": 2, "max_objects": 2,
            "shapes": 4, "colours": 5, "jitter": 0.0,
            "human_images": 600, "human_captions": 2,
            "web_images": 10_000, "noise_share": 0.5, "short_share": 0.5,
            "test_images": 1000, "test_captions": 5,
        }),
        "human_share": 0.25,  # of every batch, the same in all arms that have web texts
        "threshold": 0.5,  # of P(match), below which a text is dropped
        "pretrain": train_config.defaults("pretrain"),
        "captioner": train_config.defaults("captioner"),
        "filter": train_config.defaults("filter"),
        "capfilt": ConfigDict({
            "method": "nucleus", "top_p": 0.9, "repetition_penalty": 1.1,
            "min_length": 5, "max_length": 20, "batch_size": 256, "shard_rows": 1024,
        }),
        "evaluation": ConfigDict({
            "split": "test", "gallery": 500, "rerank": 16, "method": "greedy", "max_length": 20,
        }),
        "gallery": 60,  # images shown in the report
    })  # fmt: skip
    return config.lock()
