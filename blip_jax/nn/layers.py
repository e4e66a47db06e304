"""Dense layers, LayerNorms, and a stack of equal layers as one scanned layer.

Scanned layers have their parameters stacked on a leading axis of length depth.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn.configs import BlipConfig

ATTENTION = "attention"  # name of the result of attention, which remat=dots keeps


def recomputed(function: Callable) -> Callable:
    """Returns `function` whose gradient keeps its arguments alone and computes the rest again.

    For what is cheap beside the memory traffic of storing it. Within `nn.remat` its policy decides
    as for the operations themselves.
    """
    return jax.checkpoint(function, prevent_cse=False)


@jax.custom_vjp
def gelu(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns the exact GELU of x + bias, with the error function.

    Its gradient keeps its arguments alone. They pass a barrier, because otherwise the compiler
    stores what the GELU and its derivative have in common.
    """
    return nn.gelu(x + bias, approximate=False)


def _gelu_gradient(arguments: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple:
    x, bias = jax.lax.optimization_barrier(arguments)
    return jax.vjp(lambda x, bias: nn.gelu(x + bias, approximate=False), x, bias)[1](gradient)


gelu.defvjp(lambda *arguments: (gelu(*arguments), arguments), _gelu_gradient)


class Dense(nn.Module):
    """A dense layer from the last axis to `features`, computed in `dtype`.

    The kernel has an axis for each of `input_axes` and `features`, as flax's DenseGeneral. The
    product is one of matrices, for which the TPU compiler finds better layouts than for one over
    several axes.

    Attributes:
      std: of the normal distribution from which the kernel is drawn.
      input_axes: what the last axis is made of, as heads and their width; None: it is one.
      use_gelu: return the GELU of product and bias; with use_bias.
    """

    features: int | tuple[int, ...]
    std: float
    input_axes: tuple[int, ...] | None = None
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    use_gelu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *batch, size = x.shape
        features = (self.features,) if isinstance(self.features, int) else self.features
        shape = (*(self.input_axes or (size,)), *features)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)

        # Else the gradient would keep the kernel in another form, for each use of the layer.
        @recomputed
        def product(x, kernel):
            return x.astype(self.dtype) @ kernel.astype(self.dtype).reshape(size, -1)

        y = product(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, features)
            bias = bias.astype(self.dtype).reshape(-1)
            y = gelu(y, bias) if self.use_gelu else y + bias
        return y.reshape(*batch, *features)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in float32; its output has `dtype`.

    Not flax's: with it the ViT-B pre-training step, compiled for v5p, peaks 8 % higher in memory.
    """

    epsilon: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))

        @recomputed
        def normalize(x, scale, bias):
            x = x.astype(jnp.float32)
            # In two passes, because E[x^2] - E[x]^2 loses digits that parity with PyTorch needs.
            x -= x.mean(axis=-1, keepdims=True)
            x *= jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
            return (x * scale + bias).astype(self.dtype)

        return normalize(x, scale, bias)


def scan_layers(layer: type[nn.Module], config: BlipConfig, depth: int, inputs: tuple) -> type:
    """Returns `layer` as a module that is called once for all its `depth` copies.

    `layer.__call__(carry, *inputs)` returns (carry, output); outputs are stacked.

    Args:
      config: gives `remat` and `scan_unroll`.
      inputs: for each argument after the carry 0 (one slice per layer) or `nn.broadcast`.
    """
    if config.remat in ("dots", "full"):  # "auto" is resolved by a training alone
        policies = jax.checkpoint_policies
        products = policies.save_from_both_policies(
            policies.checkpoint_dots_with_no_batch_dims,
            policies.save_only_these_names(ATTENTION),
        )
        policy = products if config.remat == "dots" else None
        # CSE cannot merge anything across iterations of a scan, so preventing it is unnecessary.
        layer = nn.remat(layer, prevent_cse=False, policy=policy)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=inputs,
        length=depth,
        unroll=min(config.scan_unroll, depth),
    )
