"""Frozen model configurations and the presets `base`, `large` and `tiny`."""

import dataclasses
from typing import Any, Literal

import numpy as np

from blip_jax.runtime.arguments import check_arguments
from blip_jax.runtime.config import field_types, replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

# What the text encoder and decoder share in each layout of the paper's Table 3.
SHARING = {
    "all": frozenset({"embeddings", "self_attention", "cross_attention", "ffn"}),
    "all_but_cross_attention": frozenset({"embeddings", "self_attention", "ffn"}),
    "all_but_self_attention": frozenset({"embeddings", "cross_attention", "ffn"}),
    "none": frozenset(),
}
MAX_SIZE = 10_000_000  # of widths, lengths and numbers of tokens
MAX_DEPTH = 1000  # layers
REMAT = ("none", "dots", "full", "auto")
DTYPES = ("float32", "bfloat16", "float16")
# Bugs of the original's released code that can be reproduced; off by default.
QUIRKS = {
    "cls_for_enc": "image-grounded text keeps [CLS] where training put [ENC] (models/blip_itm.py; "
    "Hugging Face's retrieval and VQA)",
    "smoothed_ranking": "VQA ranks answers with training's label smoothing (models/blip_vqa.py)",
    "unmasked_question": "VQA generates from the question's pads too (models/blip_vqa.py; "
    "Hugging Face)",
    "ignore_exif": "photos whose EXIF orientation says that they were taken sideways are read as "
    "stored (data/: PIL's convert('RGB'))",
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The vision transformer (pre-norm, MLP of 4x the width)."""

    image_size: int = 224  # width and height in pixels; a multiple of patch_size
    patch_size: int = 16  # width and height of a patch in pixels
    width: int = 768  # dimension of hidden states
    depth: int = 12  # number of layers
    heads: int = 12  # number of attention heads; divides the width
    eps: float = 1e-6  # of the layer norms; Hugging Face's copies of the original use 1e-5
    drop_path: float = 0.0  # stochastic depth rate of the last layer; rises linearly from 0
    kernel_std: float = 0.02  # standard deviation of initial weights
    patch_std: float = 0.02  # the same, of the patch projection
    output_std: float = 0.02  # the same, of projections that write to the residual stream
    position_std: float = 0.02  # the same, of the position embedding

    @property
    def tokens(self) -> int:
        """Returns the number of image tokens: one [CLS] and one per patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclasses.dataclass(frozen=True)
class MedConfig:
    """The multimodal mixture of encoder-decoder: BERT's shape with cross-attention.

    `dec_index` and `enc_index` are the ids of [DEC] and [ENC]; negative ones count from the end of
    the vocabulary, to which BLIP's tokenizer appends the two.
    """

    width: int = 768  # dimension of hidden states
    depth: int = 12  # number of layers
    heads: int = 12  # number of attention heads; divides the width
    mlp_dim: int = 3072  # width of the feed-forward layers
    vocab_size: int = 30524  # number of tokens; a training run sets it to the tokenizer's
    dec_index: int = -2  # id of [DEC]
    enc_index: int = -1  # id of [ENC]
    max_length: int = 512  # number of positions
    dropout: float = 0.1  # rate for hidden states and attention probabilities
    # What encoder and decoder share (the paper's Table 3).
    sharing: Literal["all", "all_but_cross_attention", "all_but_self_attention", "none"] = (
        "all_but_self_attention"
    )
    # NLVR2: from this layer on a dense layer merges the two images' cross-attention.
    first_learned_merge_layer: int = 6
    kernel_std: float = 0.02  # standard deviation of initial weights
    output_std: float = 0.02  # the same, of projections that write to the residual stream
    embedding_std: float = 0.02  # the same, of embeddings

    @property
    def dec_token(self) -> int:
        """Returns the id of [DEC], 0 … vocab_size - 1."""
        return self.dec_index % self.vocab_size

    @property
    def enc_token(self) -> int:
        """Returns the id of [ENC], 0 … vocab_size - 1."""
        return self.enc_index % self.vocab_size


@dataclasses.dataclass(frozen=True)
class BlipConfig:
    """The whole model."""

    vit: ViTConfig = ViTConfig()
    med: MedConfig = MedConfig()
    embed_dim: int = 256  # dimension of the aligned image and text features (ITC)
    # Compute dtype; parameters, softmax, norms and losses are always float32.
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    # What the backward pass recomputes to save memory: nothing (none), all but matrix products and
    # attention (dots), everything (full); auto: dots, or full if a training does not fit otherwise.
    remat: Literal["none", "dots", "full", "auto"] = "auto"
    scan_unroll: int = 1  # layers in one iteration of the scan over layers
    quirks: tuple[str, ...] = ()  # of nn.QUIRKS: bugs of the original to reproduce

    @property
    def exif_orientation(self) -> bool:
        """Returns whether images are turned upright as their EXIF says."""
        return "ignore_exif" not in self.quirks

    def __post_init__(self):
        if isinstance(self.quirks, list):  # of checkpoints' JSON
            object.__setattr__(self, "quirks", tuple(self.quirks))
        check_values(self)
        check_values(self.vit, "vit.")
        check_values(self.med, "med.")
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
        if self.vit.image_size < self.vit.patch_size:
            raise UserError(
                f"vit.image_size is {self.vit.image_size}; it must be at least patch_size, "
                f"{self.vit.patch_size}"
            )
        for name in ("dec_index", "enc_index"):
            if not -self.med.vocab_size <= getattr(self.med, name) < self.med.vocab_size:
                raise UserError(
                    f"med.{name} is {getattr(self.med, name)}; the vocabulary has "
                    f"{self.med.vocab_size} tokens"
                )
        for name, value, choices in (
            ("med.sharing", self.med.sharing, SHARING),
            ("dtype", self.dtype, DTYPES),
            ("remat", self.remat, REMAT),
        ):
            if not isinstance(value, str) or value not in choices:
                raise UserError(f"{name} is {value!r}; supported: {', '.join(choices)}")
        for quirk in self.quirks if isinstance(self.quirks, tuple) else (self.quirks,):
            if not isinstance(quirk, str) or quirk not in QUIRKS:
                raise UserError(f"unknown quirk {quirk!r}; supported: {', '.join(QUIRKS)}")


def check_values(config: Any, path: str = "") -> None:
    """Raises a UserError for a field of another type, or a number that no model has.

    A checkpoint may claim any size; the bounds keep what is computed from it small.
    """
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{path.rstrip('.')} is {config!r:.80}; expected a group of fields")
    for name, annotation in field_types(type(config)).items():
        value = getattr(config, name)
        if annotation is int:
            lowest = -MAX_SIZE if name.endswith("_index") else 1
            lowest = 0 if name == "first_learned_merge_layer" else lowest
            highest = MAX_DEPTH if name in ("depth", "scan_unroll") else MAX_SIZE
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or not lowest <= value <= highest:
                raise UserError(
                    f"{path}{name} is {value!r:.80}; expected a whole number from {lowest} to "
                    f"{highest}"
                )
        elif annotation is float:
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            highest = 1 if name in ("dropout", "drop_path") else 1e6
            if not number or not 0 <= value <= highest:
                raise UserError(
                    f"{path}{name} is {value!r:.80}; expected a number from 0 to {highest:g}"
                )


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


@check_arguments
def preset(name: str, **changes: Any) -> BlipConfig:
    """Returns preset `name` with `changes`; nested ones as mappings, `vit={"image_size": 384}`.

    Raises:
      UserError: an unknown preset or field.
    """
    if name not in PRESETS:
        raise UserError(f"unknown model preset {name!r}; {hint(name, PRESETS)}")
    return replace(PRESETS[name], **changes)


def param_group_name(config: MedConfig, part: str, role: str) -> str:
    """Returns the parameters' name of `part` in `role`: its own, or the common one if shared."""
    return part if part in SHARING[config.sharing] else f"{role}_{part}"
