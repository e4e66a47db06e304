"""FLOPs of the model by formula, and the least time that a chip needs for them.

A product of [m, k] by [k, n] is 2 m k n FLOPs; nothing else counts. Its backward pass is two such
products, so that training costs three forward passes, plus one more of what is recomputed (remat).

N image tokens, T text tokens, V image width, W text width, F text MLP, L layers, E embedding, K
keys of ITC. A layer, forward:

| | products with weights | of attention (scores, then values) |
|---|---|---|
| ViT | 24 N V^2: qkv 6, out 2, MLP 16 | 4 N^2 V |
| text | 8 T W^2 + 4 T W F | 4 T^2 W |
| cross-attention | 4 T W^2: query, out | 4 T N W |
"""

import dataclasses

from blip_jax.nn.configs import BlipConfig, MedConfig, ViTConfig


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of a forward pass, by kind of product.

    Attributes:
      matmul: products with the weights of layers.
      attention: attention's own products.
      outside_layers: products outside of the layers, which are never recomputed.
      not_recomputed: part of `matmul` that full remat does not compute again, as its result is
        only added and no derivative needs it.
    """

    matmul: int = 0
    attention: int = 0
    outside_layers: int = 0
    not_recomputed: int = 0

    @property
    def forward(self) -> int:
        return self.matmul + self.attention + self.outside_layers

    def trained(self, remat: str) -> int:
        """Returns FLOPs of forward and backward pass, and of what `remat` computes again.

        Of attention "dots" computes the scores again, which are half of its products. "auto" adds
        nothing: only a training replaces it by a policy, and only then is it applied.
        """
        layers = self.matmul + self.attention - self.not_recomputed
        again = {"dots": self.attention // 2, "full": layers}
        return 3 * self.forward + again.get(remat, 0)


def vit(config: ViTConfig) -> Flops:
    """Returns the FLOPs of one image; `outside_layers` is the patch product, 2 (N - 1) 3 patch^2 V.

    `not_recomputed` is the MLP's second product: the layer ends by adding it.
    """
    n, v = config.tokens, config.width
    return Flops(
        matmul=config.depth * 24 * n * v * v,
        attention=config.depth * 4 * n * n * v,
        outside_layers=2 * (n - 1) * 3 * config.patch_size**2 * v,
        not_recomputed=config.depth * 8 * n * v * v,
    )


def text(config: MedConfig, length: int, image_tokens: int = 0) -> Flops:
    """Returns the FLOPs of one text of `length` tokens that attends to `image_tokens` tokens."""
    t, w = length, config.width
    matmul, attention = 8 * t * w * w + 4 * t * w * config.mlp_dim, 4 * t * t * w
    if image_tokens:
        matmul, attention = matmul + 4 * t * w * w, attention + 4 * t * image_tokens * w
    return Flops(config.depth * matmul, config.depth * attention)


def image_context(config: BlipConfig) -> Flops:
    """Returns the FLOPs of keys and values of one image for all layers: 4 N V W each."""
    return context(config.med, config.vit.tokens, config.vit.width)


def context(config: MedConfig, tokens: int, width: int) -> Flops:
    """Returns the FLOPs of keys and values of `tokens` tokens of `width` for all layers."""
    return Flops(outside_layers=config.depth * 4 * tokens * width * config.width)


def second_image(config: MedConfig, length: int, image_tokens: int) -> Flops:
    """Returns the FLOPs of a text for a second cross-attention, and for merging both (NLVR2)."""
    t, w = length, config.width
    query_and_out, merge = 4 * t * w * w, 4 * t * w * w
    return Flops(config.depth * (query_and_out + merge), config.depth * 4 * t * image_tokens * w)


def mean_of_images(config: MedConfig, length: int) -> int:
    """Returns the FLOPs of merging two images in the layers that take their mean (NLVR2)."""
    return min(config.first_learned_merge_layer, config.depth) * 4 * length * config.width**2


def nlvr_head(config: MedConfig) -> Flops:
    return Flops(outside_layers=2 * config.width * (config.width + 2))


def lm_head(config: MedConfig, length: int) -> Flops:
    return Flops(outside_layers=2 * length * config.width * (config.width + config.vocab_size))


def heads(config: BlipConfig) -> Flops:
    """Returns the FLOPs of the projections to E of one image and one text."""
    return Flops(outside_layers=2 * config.embed_dim * (config.vit.width + config.med.width))


def captioning(config: BlipConfig, prompt: int, length: int, captions: int = 1) -> int:
    """Returns the FLOPs of `captions` texts of `length` tokens (with prompt) for one image.

    The prompt is read once per image, then one token at a time; attention reads the whole cache.
    """
    med = config.med
    one = text(med, 1, config.vit.tokens)
    token = one.forward + med.depth * 4 * (length - 1) * med.width + lm_head(med, 1).forward
    turns = prompt + captions * (length - 1 - prompt)
    return vit(config.vit).forward + image_context(config).forward + turns * token


def matching(config: BlipConfig, length: int, texts: int) -> int:
    """Returns the FLOPs to score `texts` texts of `length` tokens with an image: ITM and cosine."""
    med, embed = config.med, config.embed_dim
    read = text(med, length, config.vit.tokens).forward + text(med, length).forward
    read += 2 * med.width * (embed + 2)
    image = vit(config.vit).forward + image_context(config).forward + 2 * config.vit.width * embed
    return image + texts * read
