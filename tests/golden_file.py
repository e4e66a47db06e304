"""A file of golden values: the configuration, the weights as our parameters, inputs and outputs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import checkpoints, nn
from blip_jax.checkpoints import original


@dataclasses.dataclass(frozen=True)
class Special:
    """The ids of a golden file, as a tokenizer names them."""

    pad: int
    cls: int
    sep: int
    dec: int
    enc: int


class Golden:
    """One file of the schema in goldens/README.md."""

    def __init__(self, path: str):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files if name != "meta"}
            meta = json.loads(str(file["meta"]))
        self.cfg = meta["cfg"]
        self.special = Special(**meta["special"])
        self.tensors = self.part("param/")
        self.inputs, self.outputs = self.part("in/"), self.part("out/")
        self.model_type = checkpoints.detect_model_type(self.tensors)

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def config(self, quirks: tuple[str, ...] = ()) -> nn.BlipConfig:
        vit, med = self.cfg["vit"], self.cfg["med"]
        return nn.BlipConfig(
            vit=nn.ViTConfig(
                image_size=self.cfg["image"], patch_size=vit["patch"], width=vit["width"],
                depth=vit["depth"], heads=vit["heads"],
            ),
            med=nn.MedConfig(
                dec_index=self.special.dec, enc_index=self.special.enc,
                width=med["width"], depth=med["depth"], heads=med["heads"], mlp_dim=med["mlp"],
                vocab_size=med["vocab"], max_length=med["max_len"], dropout=0.0,
                sharing="none" if self.model_type == "vqa" else "all_but_self_attention",
            ),
            embed_dim=self.cfg["embed"],
            dtype="float32",
            quirks=quirks,
        )  # fmt: skip

    @property
    def weights(self) -> original.Weights:
        return original.load(self.tensors, self.config(), self.model_type)

    def mask(self, name: str = "mask") -> np.ndarray:
        return self.inputs[name].astype(bool)


def image(x: np.ndarray) -> jax.Array:
    """NCHW to NHWC."""
    return jnp.asarray(np.moveaxis(x, -3, -1))
