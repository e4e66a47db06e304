"""Conversion rules and configuration files for BLIP folders of Hugging Face.

Source: models/blip of transformers. Its text models have the original's names.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from blip_jax import nn
from blip_jax.checkpoints import original
from blip_jax.checkpoints.rules import MERGE, PATCH, Rule, dense, norm
from blip_jax.checkpoints.rules import load as load_tree
from blip_jax.checkpoints.rules import save as save_tree
from blip_jax.data.images import MEAN, STD
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.errors import UserError


class HuggingFaceClass(NamedTuple):
    """The class of transformers for a model type.

    Attributes:
      name: of the class.
      parts: its parts besides the ViT, by the first component of their tensors' names.
      embed_field: of the configuration, the size of the aligned features.
      embed_default: that size where the field is absent.
    """

    name: str
    parts: tuple[str, ...]
    embed_field: str = "image_text_hidden_size"
    embed_default: int = 256


CLASSES = {
    "captioner": HuggingFaceClass("BlipForConditionalGeneration", ("text_decoder",)),
    "vqa": HuggingFaceClass("BlipForQuestionAnswering", ("text_encoder", "text_decoder")),
    "retrieval": HuggingFaceClass(
        "BlipForImageTextRetrieval", ("text_encoder", "vision_proj", "text_proj", "itm_head")
    ),
    "aligned": HuggingFaceClass("BlipModel", ("text_model",), "projection_dim", 512),
}
MED_EPS = 1e-12
BERT = {"pad_token_id": 0, "sep_token_id": 102}  # of bert-base-uncased
BERT_VOCAB = 30524
# Fields that a config.json omits when they have these values.
VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 384,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
TEXT_DEFAULTS = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": MED_EPS,
    "hidden_dropout_prob": 0.0,
}
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
    _check_model_type(model_type)
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


def read_config(folder: str) -> tuple[nn.BlipConfig, str]:
    """Returns the configuration and model type of a folder's config.json.

    Raises:
      UserError: it is not of BLIP, or its values are not supported.
    """
    file = pathlib.Path(folder) / "config.json"
    try:
        values = json.loads(file.read_text("utf-8"))
        model_type = values.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not a Hugging Face configuration") from error
    if model_type != "blip":
        raise UserError(f"{file} has model_type {model_type!r}; supported: 'blip'")
    names = values.get("architectures") or []
    model_types = [model_type for model_type, cls in CLASSES.items() if cls.name in names]
    if not model_types:
        known = ", ".join(cls.name for cls in CLASSES.values())
        raise UserError(f"{file} has the architectures {names}; supported: {known}")
    vision = VISION_DEFAULTS | (values.get("vision_config") or {})
    text = TEXT_DEFAULTS | (values.get("text_config") or {})
    _check_config(file, vision, text)
    return _config(vision, text, values, model_types[0]), model_types[0]


def _check_config(file: pathlib.Path, vision: Mapping, text: Mapping) -> None:
    needed = {
        "vision_config.intermediate_size": (vision["intermediate_size"], 4 * vision["hidden_size"]),
        "vision_config.hidden_act": (vision["hidden_act"], "gelu"),
        "text_config.hidden_act": (text["hidden_act"], "gelu"),
        "text_config.layer_norm_eps": (text["layer_norm_eps"], MED_EPS),
    }
    for name, found in [*vision.items(), *text.items()]:
        if name.endswith(("size", "_layers", "_heads")) and not isinstance(found, int):
            raise UserError(f"{file}: {name} is {found!r}; expected a whole number")
    for name, (found, want) in needed.items():
        if found != want:
            raise UserError(f"{file}: {name} is {found!r}; supported: {want!r}")


def _config(vision: Mapping, text: Mapping, values: Mapping, model_type: str) -> nn.BlipConfig:
    preset = "large" if vision["hidden_size"] == 1024 else "base"
    cls = CLASSES[model_type]
    return nn.preset(
        preset,
        vit={
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "width": vision["hidden_size"],
            "depth": vision["num_hidden_layers"],
            "heads": vision["num_attention_heads"],
            "eps": vision["layer_norm_eps"],
        },
        med={
            "width": text["hidden_size"],
            "depth": text["num_hidden_layers"],
            "heads": text["num_attention_heads"],
            "mlp_dim": text["intermediate_size"],
            "vocab_size": text["vocab_size"],
            "max_length": text["max_position_embeddings"],
            "dropout": text["hidden_dropout_prob"],
            "sharing": "none" if model_type == "vqa" else nn.MedConfig.sharing,
        },
        embed_dim=values.get(cls.embed_field, cls.embed_default),
    )


def to_config(
    config: nn.BlipConfig, model_type: str, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """Returns the values of config.json.

    Args:
      tokenizer: gives the ids of [PAD] and [SEP]; None: those of bert-base-uncased.

    Raises:
      UserError: Hugging Face has no such model, or the tokenizer is needed, as the vocabulary is
        not that of bert-base-uncased.
    """
    _check_model_type(model_type)
    vit, med = config.vit, config.med
    if model_type == "vqa" and vit.width != med.width:
        raise UserError(
            f"Hugging Face's VQA model has the same width for image and text; this model has "
            f"{vit.width} and {med.width}"
        )
    if tokenizer is None and med.vocab_size != BERT_VOCAB:
        raise UserError(
            f"a Hugging Face folder of {med.vocab_size} tokens needs a tokenizer; "
            "give it with --tokenizer"
        )
    if tokenizer is not None and tokenizer.ids.vocab_size != med.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.ids.vocab_size} tokens, the model's vocabulary "
            f"{med.vocab_size}"
        )
    ids = BERT if tokenizer is None else {
        "pad_token_id": tokenizer.ids.pad, "sep_token_id": tokenizer.ids.sep,
    }  # fmt: skip
    return {
        "architectures": [CLASSES[model_type].name],
        "model_type": "blip",
        CLASSES[model_type].embed_field: config.embed_dim,
        "tie_word_embeddings": True,
        "vision_config": {
            "model_type": "blip_vision_model",
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
            "hidden_size": vit.width,
            "intermediate_size": 4 * vit.width,
            "num_hidden_layers": vit.depth,
            "num_attention_heads": vit.heads,
            "layer_norm_eps": vit.eps,
        },
        "text_config": {
            "model_type": "blip_text_model",
            "vocab_size": med.vocab_size,
            "hidden_size": med.width,
            "encoder_hidden_size": vit.width,
            "intermediate_size": med.mlp_dim,
            "num_hidden_layers": med.depth,
            "num_attention_heads": med.heads,
            "max_position_embeddings": med.max_length,
            "layer_norm_eps": MED_EPS,
            "hidden_dropout_prob": med.dropout,
            "attention_probs_dropout_prob": med.dropout,
            "bos_token_id": med.dec_token,
            "eos_token_id": ids["sep_token_id"],
            "tie_word_embeddings": True,
            **ids,
        },
    }


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


def _check_model_type(model_type: str) -> None:
    if model_type not in CLASSES:
        known = ", ".join(CLASSES)
        raise UserError(
            f"Hugging Face has no {model_type!r} model of BLIP; supported model types: {known}"
        )
