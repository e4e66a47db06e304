"""Conversion rules for checkpoints of the original PyTorch code (salesforce/BLIP)."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from blip_jax import losses, nn
from blip_jax.checkpoints.rules import (
    DENSE,
    FLAT,
    MERGE,
    PATCH,
    SAME,
    Layout,
    Rule,
    dense,
    norm,
    under,
)
from blip_jax.checkpoints.rules import load as load_tree
from blip_jax.checkpoints.rules import save as save_tree
from blip_jax.runtime.errors import UserError

# The parts of each model type's state dict, by the original's attribute names.
PARTS = {
    "pretrain": ("visual_encoder", "text_encoder", "text_decoder", "heads"),
    "captioner": ("visual_encoder", "text_decoder"),
    "retrieval": ("visual_encoder", "text_encoder", "heads"),
    "features": ("visual_encoder", "text_encoder"),
    "vqa": ("visual_encoder", "text_encoder", "text_decoder"),
    "nlvr": ("visual_encoder", "text_encoder", "cls_head"),
}
CONSTANT = re.compile(r".*\.position_ids")  # a buffer, 0 … length - 1
# int64 [1] <-> int32 [], int64 [1, Q] <-> int32 [Q]
_SCALAR = Layout(lambda w, shape: w[0], lambda w: w.astype(np.int64).reshape(1))
_ROW = Layout(lambda w, shape: w[0], lambda w: w.astype(np.int64).reshape(1, -1))
_FEATURES = [Rule("image_queue", "image", DENSE), Rule("text_queue", "text", DENSE)]
QUEUES = {
    "pretrain": [*_FEATURES, Rule("queue_ptr", "pointer", _SCALAR)],
    "retrieval": [
        *_FEATURES,
        Rule("idx_queue", "group", _ROW),
        Rule("ptr_queue", "pointer", _SCALAR),
    ],
}


class Weights(NamedTuple):
    """The arrays of a checkpoint; momentum and queue of pre-training and retrieval, else None."""

    params: dict
    momentum: dict | None = None
    queue: losses.Queue | None = None


def vision(name: str, path: str = "vit") -> list[Rule]:
    """Returns the rules of a ViT whose tensors begin with `name`; timm has the same names."""
    block, ours = f"{name}blocks.*", f"{path}/blocks"
    return [
        Rule(f"{name}cls_token", f"{path}/cls"),
        Rule(f"{name}pos_embed", f"{path}/position"),
        *dense(f"{name}patch_embed.proj", f"{path}/patch", PATCH),
        *norm(f"{block}.norm1", f"{ours}/norm1"),
        *dense(f"{block}.attn.qkv", f"{ours}/attention/qkv"),
        *dense(f"{block}.attn.proj", f"{ours}/attention/out", MERGE),
        *norm(f"{block}.norm2", f"{ours}/norm2"),
        *dense(f"{block}.mlp.fc1", f"{ours}/mlp_in"),
        *dense(f"{block}.mlp.fc2", f"{ours}/mlp_out"),
        *norm(f"{name}norm", f"{path}/norm"),
    ]


def text(name: str, role: str, config: nn.MedConfig, images: int = 1) -> list[Rule]:
    """Returns the rules of a text transformer in the role "encoder" or "decoder".

    Args:
      name: the beginning of its tensors' names.
      images: images of an input; 2 for NLVR2, which has two cross-attentions.
    """
    rules = [*embeddings(name, role, config), *self_attention(name, role, config)]
    rules += feed_forward(name, role, config)
    cross = nn.param_group_name(config, "cross_attention", role)
    theirs, ours = f"{name}encoder.layer.*.crossattention", f"med/layers/layer/{cross}"
    rules += norm(f"{theirs}.output.LayerNorm", f"{ours}_norm")
    for number in range(images):  # if there are two, names have numbers
        twin, tail = (str(number), "_2" * number) if images > 1 else ("", "")
        context = f"med/{cross}{tail}_context"
        rules += dense(f"{theirs}.self{twin}.query", f"{ours}{tail}/query")
        for part in ("key", "value"):
            source = f"{theirs}.self{twin}.{part}"
            rules += [
                Rule(f"{source}.weight", f"{context}/{part}_kernel", DENSE),
                Rule(f"{source}.bias", f"{context}/{part}_bias", FLAT),
            ]
        rules += dense(f"{theirs}.output.dense{twin}", f"{ours}{tail}/out", MERGE)
    if images > 1:
        merge, first = f"{theirs}.output.merge_layer", config.first_learned_merge_layer
        rules += [
            Rule(f"{merge}.weight", "med/layers/merge_kernel", DENSE, first),
            Rule(f"{merge}.bias", "med/layers/merge_bias", FLAT, first),
        ]
    return rules


def embeddings(name: str, role: str, config: nn.MedConfig) -> list[Rule]:
    """Returns the rules of the text embeddings."""
    path = f"med/{nn.param_group_name(config, 'embeddings', role)}"
    return [
        Rule(f"{name}embeddings.word_embeddings.weight", f"{path}/word", tied=True),
        Rule(f"{name}embeddings.position_embeddings.weight", f"{path}/position"),
        *norm(f"{name}embeddings.LayerNorm", f"{path}/norm"),
    ]


def self_attention(name: str, role: str, config: nn.MedConfig) -> list[Rule]:
    """Returns the rules of self-attention in all layers."""
    layer = f"{name}encoder.layer.*.attention"
    ours = f"med/layers/layer/{nn.param_group_name(config, 'self_attention', role)}"
    rules = dense(f"{layer}.output.dense", f"{ours}/out", MERGE)
    rules += norm(f"{layer}.output.LayerNorm", f"{ours}_norm")
    for number, part in enumerate(("query", "key", "value")):
        rules += [
            Rule(f"{layer}.self.{part}.weight", f"{ours}/qkv/kernel[{number}]", DENSE),
            Rule(f"{layer}.self.{part}.bias", f"{ours}/qkv/bias[{number}]", FLAT),
        ]
    return rules


def feed_forward(name: str, role: str, config: nn.MedConfig) -> list[Rule]:
    """Returns the rules of the feed-forward networks in all layers."""
    layer = f"{name}encoder.layer.*"
    ours = f"med/layers/layer/{nn.param_group_name(config, 'ffn', role)}"
    return [
        *dense(f"{layer}.intermediate.dense", f"{ours}_in"),
        *dense(f"{layer}.output.dense", f"{ours}_out"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}_norm"),
    ]


def lm_head(name: str, config: nn.MedConfig) -> list[Rule]:
    """Returns the rules of the LM head; its output layer is tied to the word embedding."""
    word = f"med/{nn.param_group_name(config, 'embeddings', 'decoder')}/word"
    return [
        *dense(f"{name}transform.dense", "med/lm_head/dense"),
        *norm(f"{name}transform.LayerNorm", "med/lm_head/norm"),
        Rule(f"{name}bias", "med/lm_head/bias", tied=True),
        Rule(f"{name}decoder.weight", word, tied=True),
        Rule(f"{name}decoder.bias", "med/lm_head/bias", tied=True),
    ]


def rules(model_type: str, config: nn.BlipConfig) -> list[Rule]:
    """Returns the rules of a model type's parameters.

    Raises:
      UserError: the original has no such model type.
    """
    if model_type not in PARTS:
        known = ", ".join(PARTS)
        raise UserError(
            f"the original has no {model_type!r} checkpoints; supported model types: {known}"
        )
    med, images = config.med, 2 if model_type == "nlvr" else 1
    tables = {
        "visual_encoder": vision("visual_encoder."),
        "text_encoder": text("text_encoder.", "encoder", med, images),
        "text_decoder": text("text_decoder.bert.", "decoder", med)
        + lm_head("text_decoder.cls.predictions.", med),
        "heads": [
            Rule("temp", "temperature", SAME),
            *dense("vision_proj", "vision_proj"),
            *dense("text_proj", "text_proj"),
            *dense("itm_head", "itm_head"),
        ],
        "cls_head": dense("cls_head.0", "classifier_in") + dense("cls_head.2", "classifier_out"),
    }
    return [rule for part in PARTS[model_type] for rule in tables[part]]


def momentum_rules(config: nn.BlipConfig) -> list[Rule]:
    """Returns the rules of the momentum encoder's parameters."""
    return [
        *vision("visual_encoder_m."),
        *text("text_encoder_m.", "encoder", config.med),
        *dense("vision_proj_m", "vision_proj"),
        *dense("text_proj_m", "text_proj"),
    ]


def _table(model_type: str, config: nn.BlipConfig) -> list[Rule]:
    """Returns all rules of a file, for a tree with params, momentum and queue."""
    table = under("params", rules(model_type, config))
    if model_type in QUEUES:
        table += under("momentum", momentum_rules(config)) + under("queue", QUEUES[model_type])
    return table


def load(
    tensors: Mapping[str, np.ndarray],
    config: nn.BlipConfig,
    model_type: str,
    training_state: bool = True,
) -> Weights:
    """Returns the parameters, and the momentum encoder and queue if the file has them.

    Retrieval models for the original's models/blip_itm.py have neither, and no temperature.

    Args:
      training_state: also read the momentum encoder and the queue, if there are any.

    Raises:
      UserError: see `rules.load`.
    """
    table = _table(model_type, config)
    params = nn.param_shapes(config, model_type)
    if model_type == "retrieval" and "temp" not in tensors:
        del params["temperature"]
    like = {"params": params}
    if not training_state:
        unread = re.compile(rf".*_m\..*|.*queue.*|{CONSTANT.pattern}")
        return Weights(load_tree(tensors, like, table, unread.fullmatch)["params"])
    if any(name.startswith("visual_encoder_m.") for name in tensors):
        like["momentum"] = nn.momentum_params(params)
    if "image_queue" in tensors and model_type in QUEUES:
        size = np.shape(tensors["image_queue"])[-1]
        like["queue"] = _queue_like(size, config.embed_dim, model_type)
    found = load_tree(tensors, like, table, CONSTANT.fullmatch)
    queue = found.get("queue")
    if queue is not None:
        size = len(queue["image"])
        # The original uses the random initial rows as negatives, so all rows are valid.
        defaults = {"group": np.full(size, -1, np.int32), "valid": np.ones(size, bool)}
        queue = losses.Queue(**(defaults | queue))
    return Weights(found["params"], found.get("momentum"), queue)


def _queue_like(size: int, embed: int, model_type: str) -> dict[str, np.ndarray]:
    """Returns a queue of arrays that use no memory, for shapes and dtypes."""
    features = np.broadcast_to(np.float32(0), (size, embed))
    like = {"image": features, "text": features, "pointer": np.zeros((), np.int32)}
    return like | ({"group": np.zeros(size, np.int32)} if model_type == "retrieval" else {})


def save(weights: Weights, config: nn.BlipConfig, model_type: str) -> dict[str, np.ndarray]:
    """Returns the original's state dict with its constant buffers: the inverse of `load`."""
    tree = {"params": weights.params}
    if weights.momentum is not None:
        tree["momentum"] = weights.momentum
    if weights.queue is not None:
        tree["queue"] = weights.queue._asdict()
    tensors = save_tree(tree, _table(model_type, config))
    ids = np.arange(config.med.max_length, dtype=np.int64)[None]
    suffix = ".position_embeddings.weight"
    names = [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]
    return tensors | {f"{name}.position_ids": ids for name in names}
