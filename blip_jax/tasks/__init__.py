"""What can be trained: a name, and the objectives with the values of its recipe.

All of these run `image_text.ImageText`; `train/config.py` holds the rest of each recipe.
"""

_CONTRAST = {
    "momentum": 0.995,
    "queue": 57600,
    "queue_random_start": False,
    "alpha": 0.4,
    "alpha_steps": 9800,
    "positives": "pair",
    "negative_group": 90,
    "negative_floor": 1e-4,
    "smoothing": 0.1,
    "teacher_dropout": True,
}

TASKS = {
    # Paper, section 4.1; configs/pretrain.yaml of the original. Alpha rises over two epochs;
    # hard negatives are drawn among the 90 pairs that a chip of 32 has.
    "pretrain": {"names": ("itc", "itm", "lm"), **_CONTRAST},
    # Fine-tuned decoder, configs/caption_coco.yaml.
    "captioner": {"names": ("lm",), **_CONTRAST},
    # Fine-tuned encoders by the retrieval recipe, configs/retrieval_coco.yaml: texts of one image
    # are positives of each other, negatives are drawn without a floor.
    "filter": {
        "names": ("itc", "itm"),
        **_CONTRAST,
        "positives": "image",
        "negative_floor": 0.0,
        "negative_group": 32,
        "alpha_steps": 2215,
    },
}

# The model type (`nn.MODEL_TYPES`) that each leaves.
MODEL_TYPES = {"pretrain": "pretrain", "captioner": "captioner", "filter": "retrieval"}
