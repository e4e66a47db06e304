"""The vision transformer.

B images, S pixels a side, P patch, N image tokens ([CLS] first), D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.nn.attention import SelfAttention
from blip_jax.nn.configs import BlipConfig, ViTConfig
from blip_jax.nn.layers import Dense, LayerNorm, scan_layers


class ViT(nn.Module):
    """Images to tokens; `VisionTransformer` of the original's models/vit.py."""

    config: BlipConfig

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps normalised images float [B, S, S, 3] to tokens [B, N, D] in the compute dtype."""
        config, dtype = self.config.vit, jnp.dtype(self.config.dtype)
        normal = nn.initializers.normal
        x = patches(images, config.patch_size)
        x = Dense(config.width, config.patch_std, dtype=dtype, name="patch")(x)
        cls = self.param("cls", normal(config.position_std), (1, 1, config.width))
        shape = (1, config.tokens, config.width)
        position = self.param("position", normal(config.position_std), shape)
        cls = jnp.broadcast_to(cls, (x.shape[0], 1, config.width)).astype(dtype)
        x = jnp.concatenate([cls, x], axis=1) + position.astype(dtype)
        rates = jnp.linspace(0.0, config.drop_path, config.depth)
        blocks = scan_layers(Block, self.config, config.depth, inputs=(0,))
        x, _ = blocks(config, dtype, train, name="blocks")(x, rates)
        return LayerNorm(config.eps, dtype, name="norm")(x)


class Block(nn.Module):
    """One pre-norm layer."""

    config: ViTConfig
    dtype: jnp.dtype
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array) -> tuple[jax.Array, None]:
        config = self.config
        y = LayerNorm(config.eps, self.dtype, name="norm1")(x)
        attention = SelfAttention(
            config.heads, config.kernel_std, config.output_std, self.dtype, name="attention"
        )
        x = x + self.drop_path(attention(y)[0], rate)
        y = LayerNorm(config.eps, self.dtype, name="norm2")(x)
        y = Dense(
            4 * config.width, config.kernel_std, dtype=self.dtype, use_gelu=True, name="mlp_in"
        )(y)
        y = Dense(config.width, config.output_std, dtype=self.dtype, name="mlp_out")(y)
        return x + self.drop_path(y, rate), None

    def drop_path(self, y: jax.Array, rate: jax.Array) -> jax.Array:
        """Drops an image's whole branch with probability `rate` (stochastic depth)."""
        if not self.train or not self.config.drop_path:
            return y
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (y.shape[0], 1, 1))
        return jnp.where(keep, y / (1 - rate).astype(y.dtype), 0)


def patches(images: jax.Array, patch: int) -> jax.Array:
    """Maps [B, S, S, 3] to [B, (S / patch)^2, patch * patch * 3], row by row from the top left."""
    batch, size = images.shape[0], images.shape[1] // patch
    x = images.reshape(batch, size, patch, size, patch, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, size * size, patch * patch * 3)


def resize_position_embedding(position: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the position embedding for another image size, equal to PyTorch's bicubic resize.

    `jax.image.resize` cubes with a = -0.5 and anti-aliases, PyTorch takes a = -0.75 and does not,
    so the kernel is written out. Source: `interpolate_pos_embed` of the original's models/vit.py.

    Args:
      position: float32 [1, old tokens, D], [CLS] first.
      tokens: of the new size, [CLS] counted.

    Returns: float32 [1, tokens, D]; the [CLS] position is kept.
    """
    old, new = round((position.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old == new:
        return position
    weights = _cubic_weights(old, new)
    grid = np.asarray(position[0, 1:], np.float64).reshape(old, old, -1)
    grid = np.einsum("ip,jq,pqd->ijd", weights, weights, grid)
    grid = grid.reshape(1, new * new, -1).astype(np.float32)
    return np.concatenate([np.asarray(position[:, :1], np.float32), grid], axis=1)


def _cubic_weights(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Returns the [new, old] matrix of the Keys kernel, half-pixel centres, clamped edges."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        source = np.floor(centre) + offset
        x = np.abs(centre - source)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        value = np.where(x <= 1, near, np.where(x < 2, far, 0))
        np.add.at(weights, (np.arange(new), np.clip(source, 0, old - 1).astype(int)), value)
    return weights
