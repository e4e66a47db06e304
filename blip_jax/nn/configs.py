"""Frozen model configurations and the presets `base`, `large` and `tiny`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from blip_jax.runtime.errors import UserError

# What the text encoder and decoder share in each layout of the paper's Table 3.
SHARING = {
    "all": frozenset({"embeddings", "self_attention", "cross_attention", "ffn"}),
    "all_but_cross_attention": frozenset({"embeddings", "self_attention", "ffn"}),
    "all_but_self_attention": frozenset({"embeddings", "cross_attention", "ffn"}),
    "none": frozenset(),
}
REMAT = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16", "float16")
# Faults of the original's released code that can be reproduced; off by default.
QUIRKS = {
    "cls_for_enc": "image-grounded text keeps [CLS] where training put [ENC] (models/blip_itm.py; "
    "Hugging Face's retrieval and VQA)",
    "smoothed_ranking": "VQA ranks answers with training's label smoothing (models/blip_vqa.py)",
    "unmasked_question": "VQA generates from the question's pads too (models/blip_vqa.py; "
    "Hugging Face)",
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The vision transformer (pre-norm, MLP of 4x the width).

    `eps` is that of the norms: the original's 1e-6; Hugging Face's copies of it run with 1e-5.
    `position_std` and the other deviations are those of the normal draws at initialisation.
    """

    image_size: int = 224  # pixels a side
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    eps: float = 1e-6
    drop_path: float = 0.0  # stochastic depth of the last layer; rises linearly from 0
    kernel_std: float = 0.02
    patch_std: float = 0.02
    output_std: float = 0.02  # the projections that write to the residual stream
    position_std: float = 0.02

    @property
    def tokens(self) -> int:
        """Image tokens: one [CLS] and one a patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclasses.dataclass(frozen=True)
class MedConfig:
    """The multimodal mixture of encoder-decoder: BERT's shape with cross-attention.

    `dec_index` and `enc_index` are the ids of [DEC] and [ENC]; negative ones count from the end
    of the vocabulary, to which BLIP's tokenizer appends the two.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    vocab_size: int = 30524
    dec_index: int = -2
    enc_index: int = -1
    max_length: int = 512
    dropout: float = 0.1  # of hidden states and of attention probabilities
    sharing: str = "all_but_self_attention"
    first_learned_merge_layer: int = (
        6  # with two images a text: from this layer on the merge is learned
    )
    kernel_std: float = 0.02
    output_std: float = 0.02
    embedding_std: float = 0.02

    @property
    def dec_token(self) -> int:
        """The id of [DEC], 0 … vocab_size - 1."""
        return self.dec_index % self.vocab_size

    @property
    def enc_token(self) -> int:
        """The id of [ENC], 0 … vocab_size - 1."""
        return self.enc_index % self.vocab_size


@dataclasses.dataclass(frozen=True)
class BlipConfig:
    """The whole model.

    Attributes:
      embed_dim: dimension of the aligned image and text features (ITC).
      dtype: compute dtype; parameters, softmax, norms and losses are float32 always.
      remat: what the backward pass recomputes: "none", "dots" (all but matrix products), "full".
      scan_unroll: layers in one iteration of the scan over layers.
      quirks: of QUIRKS, faults of the original to reproduce, to obtain its numbers.
    """

    vit: ViTConfig = ViTConfig()
    med: MedConfig = MedConfig()
    embed_dim: int = 256
    dtype: str = "bfloat16"
    remat: str = "none"
    scan_unroll: int = 1
    quirks: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "quirks", tuple(self.quirks))  # a list in checkpoints' JSON
        for name, part in (("vit", self.vit), ("med", self.med)):
            if part.width % part.heads:
                raise UserError(
                    f"{name}.width {part.width} is not a multiple of {part.heads} heads"
                )
        if self.vit.image_size % self.vit.patch_size:
            raise UserError(
                f"vit.image_size {self.vit.image_size} is not a multiple of patch_size "
                f"{self.vit.patch_size}"
            )
        if self.med.sharing not in SHARING:
            raise UserError(f"med.sharing is {self.med.sharing!r}; known: {', '.join(SHARING)}")
        if self.vit.image_size < self.vit.patch_size:
            raise UserError(
                f"vit.image_size is {self.vit.image_size}; it must be at least the patch size"
            )
        for name in ("dec_index", "enc_index"):
            if not -self.med.vocab_size <= getattr(self.med, name) < self.med.vocab_size:
                raise UserError(
                    f"med.{name} is {getattr(self.med, name)}; the vocabulary has "
                    f"{self.med.vocab_size} tokens"
                )
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is {self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.remat not in REMAT:
            raise UserError(f"remat is {self.remat!r}; known: {', '.join(REMAT)}")
        for quirk in self.quirks:
            if quirk not in QUIRKS:
                raise UserError(f"unknown quirk {quirk!r}; known: {', '.join(QUIRKS)}")


PRESETS = {
    "base": BlipConfig(),
    "large": BlipConfig(
        vit=ViTConfig(width=1024, depth=24, heads=16, drop_path=0.1),
    ),
    "tiny": BlipConfig(
        vit=ViTConfig(
            image_size=32, width=64, depth=2, heads=4,
            kernel_std=0.125, patch_std=0.07, output_std=0.01, position_std=2.0,
        ),
        med=MedConfig(
            width=64, depth=2, heads=4, mlp_dim=256, vocab_size=256, max_length=32, dropout=0.0,
            kernel_std=0.125, output_std=0.01, embedding_std=0.1,
        ),
        embed_dim=64,
        dtype="float32",
        scan_unroll=2,
    ),
}  # fmt: skip


def preset(name: str, **changes: Any) -> BlipConfig:
    """The preset `name` with `changes`; nested ones as mappings, `vit={"image_size": 384}`.

    Raises:
      UserError: an unknown preset or field.
    """
    if name not in PRESETS:
        raise UserError(f"unknown model preset {name!r}; known: {', '.join(PRESETS)}")
    return _replace(PRESETS[name], changes, "model")


def _replace(config: Any, changes: Mapping[str, Any], where: str) -> Any:
    fields = {field.name for field in dataclasses.fields(config)}
    values = {}
    for name, value in changes.items():
        if name not in fields:
            raise UserError(f"{where} has no field {name!r}; known: {', '.join(sorted(fields))}")
        old = getattr(config, name)
        nested = dataclasses.is_dataclass(old) and isinstance(value, Mapping)
        values[name] = _replace(old, value, f"{where}.{name}") if nested else value
    return dataclasses.replace(config, **values)


def param_group_name(config: MedConfig, part: str, role: str) -> str:
    """Name of the parameters of `part` in `role`: its own, or the common one if it is shared."""
    return part if part in SHARING[config.sharing] else f"{role}_{part}"


def to_dict(config: BlipConfig) -> dict[str, Any]:
    """As nested plain values, for a checkpoint's metadata; `from_dict` is its inverse."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> BlipConfig:
    """The configuration whose `to_dict` was `values`.

    Nested parts are built first, as they must agree with each other.
    """
    parts = dict(values)
    parts["vit"] = _replace(ViTConfig(), parts.get("vit", {}), "vit")
    parts["med"] = _replace(MedConfig(), parts.get("med", {}), "med")
    return _replace(BlipConfig(), parts, "model")
