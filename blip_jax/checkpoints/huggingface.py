"""Conversion rules for BLIP folders of Hugging Face, and their files.

Source: models/blip of transformers. Its text models have the original's names.
"""

import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from blip_jax import nn
from blip_jax.checkpoints import original
from blip_jax.checkpoints.huggingface_config import CLASSES, check_model_type, to_config
from blip_jax.checkpoints.rules import MERGE, PATCH, Rule, dense, norm
from blip_jax.checkpoints.rules import load as load_tree
from blip_jax.checkpoints.rules import save as save_tree
from blip_jax.data.images import MEAN, STD
from blip_jax.data.tokenizer import Tokenizer

_TIED = re.compile(r".*\.predictions\.decoder\.(weight|bias)")  # transformers ties these itself


def vision() -> list[Rule]:
    """Returns the rules of `BlipVisionModel`."""
    block, ours = "vision_model.encoder.layers.*", "vit/blocks"
    return [
        Rule("vision_model.embeddings.class_embedding", "vit/cls"),
        Rule("vision_model.embeddings.position_embedding", "vit/position"),
        *dense("vision_model.embeddings.patch_embedding", "vit/patch", PATCH),
        *norm(f"{block}.layer_norm1", f"{ours}/norm1"),
        *dense(f"{block}.self_attn.qkv", f"{ours}/attention/qkv"),
        *dense(f"{block}.self_attn.projection", f"{ours}/attention/out", MERGE),
        *norm(f"{block}.layer_norm2", f"{ours}/norm2"),
        *dense(f"{block}.mlp.fc1", f"{ours}/mlp_in"),
        *dense(f"{block}.mlp.fc2", f"{ours}/mlp_out"),
        *norm("vision_model.post_layernorm", "vit/norm"),
    ]


def rules(model_type: str, config: nn.BlipConfig) -> list[Rule]:
    """Returns the rules of a model type's parameters.

    Raises:
      UserError: Hugging Face has no class for the model type.
    """
    check_model_type(model_type)
    known, parts = original.rules("pretrain", config), CLASSES[model_type].parts
    table = vision() + [rule for rule in known if rule.name.split(".")[0] in parts]
    if model_type == "aligned":
        table += original.text("text_model.", "encoder", config.med)
        table += dense("text_model.pooler.dense", "pooler")
        table += dense("visual_projection", "vision_proj") + dense("text_projection", "text_proj")
        table.append(Rule("logit_scale", "logit_scale"))
    return table


def load(tensors: Mapping[str, np.ndarray], config: nn.BlipConfig, model_type: str) -> dict:
    """Returns the parameters; those of a retrieval model have no temperature.

    Raises:
      UserError: see `rules.load`.
    """
    like = nn.param_shapes(config, model_type)
    like.pop("temperature", None)
    return load_tree(tensors, like, rules(model_type, config), original.CONSTANT.fullmatch)


def save(params: Mapping, config: nn.BlipConfig, model_type: str) -> dict[str, np.ndarray]:
    """Returns the tensors of a weights file by name: the inverse of `load`.

    The temperature is left out, as the format has none.
    """
    params = {name: value for name, value in params.items() if name != "temperature"}
    tensors = save_tree(params, rules(model_type, config))
    return {name: tensor for name, tensor in tensors.items() if not _TIED.fullmatch(name)}


def write_folder(
    folder: str, config: nn.BlipConfig, model_type: str, tokenizer: Tokenizer | None = None
) -> None:
    """Writes config.json and the files that `BlipProcessor` reads; not the weights."""
    values = to_config(config, model_type, tokenizer)
    place = pathlib.Path(folder).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    _write_json(place / "config.json", values)
    processor = {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": config.vit.image_size, "width": config.vit.image_size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(float(x), 8) for x in MEAN],
        "image_std": [round(float(x), 8) for x in STD],
    }
    _write_json(place / "preprocessor_config.json", processor)
    if tokenizer is not None:
        tokenizer.save(str(place))


def _write_json(file: pathlib.Path, values: Mapping) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
