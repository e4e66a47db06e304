"""Infers the model type and configuration of an original state dict from names and shapes."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

from blip_jax import nn
from blip_jax.runtime.errors import UserError

LORA = "a LoRA adapter; merge it into its model first (merge_and_unload in peft), and save that"
HEAD = 64  # width of an attention head in all published models; it cannot be read from shapes


def detect_model_type(names: Iterable[str]) -> str:
    """Returns the model type of a state dict with these tensor names.

    Raises:
      UserError: it is no model of the original.
    """
    names = list(names)
    if any(".lora_" in name for name in names):
        raise UserError(LORA)
    heads = {name.split(".")[0] for name in names}
    if heads & {"vision_model", "text_model"}:
        raise UserError("the weights of a Hugging Face folder; give the folder, not the file")
    has = {part: part in heads for part in ("text_encoder", "text_decoder", "itm_head")}
    if "visual_encoder" not in heads or not (has["text_encoder"] or has["text_decoder"]):
        raise UserError("not a BLIP checkpoint: it has no visual_encoder with a text model")
    if "cls_head" in heads:
        return "nlvr"
    if not has["text_encoder"]:
        return "captioner"
    if has["text_decoder"]:
        return "pretrain" if has["itm_head"] else "vqa"
    return "retrieval" if has["itm_head"] else "features"


def infer_config(
    shapes: Mapping[str, tuple[int, ...]], heads: Mapping[str, int] | None = None
) -> nn.BlipConfig:
    """Returns the configuration of a state dict with these shapes.

    Fields that shapes do not tell are those of the preset "large" for a ViT 1024 wide, else "base".

    Args:
      shapes: tensor shapes by name.
      heads: attention heads, {"vit": …, "med": …}; default: as many as are 64 wide, at least one.

    Raises:
      UserError: it is no BLIP checkpoint, or a required tensor is missing or has another rank.
    """
    model_type = detect_model_type(shapes)
    text = "text_decoder.bert" if model_type == "captioner" else "text_encoder"
    width, _, patch_size, _ = _shape(shapes, "visual_encoder.patch_embed.proj.weight", 4)
    tokens = _shape(shapes, "visual_encoder.pos_embed", 3)[1]
    vocab_size, text_width = _shape(shapes, f"{text}.embeddings.word_embeddings.weight", 2)
    length, _ = _shape(shapes, f"{text}.embeddings.position_embeddings.weight", 2)
    mlp_dim, _ = _shape(shapes, f"{text}.encoder.layer.0.intermediate.dense.weight", 2)
    heads = {"vit": max(1, width // HEAD), "med": max(1, text_width // HEAD), **(heads or {})}
    config = nn.preset("large" if width == 1024 else "base")
    vit = dataclasses.replace(
        config.vit,
        image_size=math.isqrt(max(tokens - 1, 0)) * patch_size,
        patch_size=patch_size,
        width=width,
        depth=_depth(shapes, "visual_encoder.blocks."),
        heads=heads["vit"],
    )
    med = dataclasses.replace(
        config.med,
        width=text_width,
        depth=_depth(shapes, f"{text}.encoder.layer."),
        heads=heads["med"],
        mlp_dim=mlp_dim,
        vocab_size=vocab_size,
        max_length=length,
        sharing="none" if model_type == "vqa" else config.med.sharing,
    )
    embed_dim = config.embed_dim
    if "vision_proj.weight" in shapes:
        embed_dim, _ = _shape(shapes, "vision_proj.weight", 2)
    return dataclasses.replace(config, vit=vit, med=med, embed_dim=embed_dim)


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, rank: int) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f"missing tensor {name}")
    if len(shapes[name]) != rank:
        raise UserError(f"wrong shape: {name} is {list(shapes[name])}; BLIP has {rank} axes")
    return tuple(shapes[name])


def _depth(shapes: Iterable[str], prefix: str) -> int:
    layer = re.compile(re.escape(prefix) + r"(\d{1,9})\.")
    return 1 + max((int(found[1]) for name in shapes if (found := layer.match(name))), default=-1)
