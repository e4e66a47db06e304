"""config.json of BLIP folders of Hugging Face. Source: models/blip of transformers."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from blip_jax import nn
from blip_jax.checkpoints.detection import LORA
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_regular


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


def read_config(folder: str) -> tuple[nn.BlipConfig, str]:
    """Returns the configuration and model type of a folder's config.json.

    Raises:
      UserError: it is not of BLIP, or its values are not supported.
    """
    file = pathlib.Path(folder) / "config.json"
    if (file.parent / "adapter_config.json").is_file():
        raise UserError(f"{folder} is {LORA}")
    if not file.exists():
        raise UserError(
            f"{folder} has no config.json; give a whole Hugging Face folder, or a workdir, which "
            "has checkpoints/"
        )
    check_regular(file)
    try:
        values = json.loads(file.read_text("utf-8-sig"))
        model_type = values.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a Hugging Face configuration") from error
    if model_type != "blip":
        raise UserError(f"{file} has model_type {model_type!r:.80}; supported: 'blip'")
    names = values.get("architectures") or []
    if not isinstance(names, list):
        raise UserError(f"{file}: architectures is {names!r:.80}; expected a list")
    model_types = [model_type for model_type, cls in CLASSES.items() if cls.name in names]
    if not model_types:
        known = ", ".join(cls.name for cls in CLASSES.values())
        raise UserError(f"{file} has the architectures {str(names):.200}; supported: {known}")
    for name in ("vision_config", "text_config"):
        if not isinstance(values.get(name) or {}, dict):
            raise UserError(f"{file}: {name} is {values[name]!r:.80}; expected an object")
    vision = VISION_DEFAULTS | (values.get("vision_config") or {})
    text = TEXT_DEFAULTS | (values.get("text_config") or {})
    _check_config(file, vision, text)
    return _config(vision, text, values, model_types[0]), model_types[0]


def _check_config(file: pathlib.Path, vision: Mapping, text: Mapping) -> None:
    for name, default in [*VISION_DEFAULTS.items(), *TEXT_DEFAULTS.items()]:
        found = vision.get(name, default), text.get(name, default)
        if isinstance(default, int) and not all(isinstance(x, int) for x in found):
            odd = next(x for x in found if not isinstance(x, int))
            raise UserError(f"{file}: {name} is {odd!r:.80}; expected a whole number")
    needed = {
        "vision_config.intermediate_size": (vision["intermediate_size"], 4 * vision["hidden_size"]),
        "vision_config.hidden_act": (vision["hidden_act"], "gelu"),
        "text_config.hidden_act": (text["hidden_act"], "gelu"),
        "text_config.layer_norm_eps": (text["layer_norm_eps"], MED_EPS),
    }
    for name, (found, want) in needed.items():
        if found != want:
            raise UserError(f"{file}: {name} is {found!r:.80}; supported: {want!r}")


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
    check_model_type(model_type)
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


def check_model_type(model_type: str) -> None:
    """Raises a UserError unless Hugging Face has a class for the model type."""
    if model_type not in CLASSES:
        known = ", ".join(CLASSES)
        raise UserError(
            f"Hugging Face has no {model_type!r} model of BLIP; supported model types: {known}"
        )
