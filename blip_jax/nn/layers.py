"""Layers as one scanned layer: parameters are stacked on a leading axis of length depth."""

import flax.linen as nn
import jax

from blip_jax.nn.configs import BlipConfig


def scan_layers(layer: type[nn.Module], config: BlipConfig, depth: int, inputs: tuple) -> type:
    """`layer`, to be called once for all its `depth` copies.

    `layer.__call__(carry, *inputs)` returns (carry, output); outputs are stacked.

    Args:
      config: gives `remat` and `unroll`.
      inputs: an entry an argument behind the carry: 0 (one slice a layer) or `nn.broadcast`.
    """
    if config.remat != "none":
        dots = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
        policy = dots if config.remat == "dots" else None
        # Inside a scan nothing can be merged across iterations, so CSE need not be prevented.
        layer = nn.remat(layer, prevent_cse=False, policy=policy)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=inputs,
        length=depth,
        unroll=min(config.scan_unroll, depth),
    )
