"""The choice of what the backward pass recomputes, for `model.remat=auto`."""

from collections.abc import Callable

import jax

from blip_jax.nn.configs import BlipConfig
from blip_jax.runtime.config import replace
from blip_jax.runtime.processes import all_gather


def resolve_remat(
    model: BlipConfig,
    device: jax.Device,
    compile_step: Callable[[BlipConfig], jax.stages.Compiled],
) -> BlipConfig:
    """Returns `model` with "dots" in place of "auto", or "full" if the step then does not fit.

    "none" is never chosen: it needs the most memory, and storing results that are cheap to compute
    takes longer than computing them again (a step on CPUs takes 1.14 times as long).

    Args:
      device: one of those that train; all have as much memory.
      compile_step: compiles the training step for a model. Not called on CPUs, which do not say how
        much memory they have.
    """
    if model.remat != "auto":
        return model
    keeps_products = replace(model, remat="dots")
    if device.platform == "cpu":
        return keeps_products
    fits = _fits(lambda: compile_step(keeps_products), device)
    # All processes must run the same program, also if their devices have not the same bytes free.
    return keeps_products if all_gather(fits).all() else replace(model, remat="full")


def _fits(compile_step: Callable[[], jax.stages.Compiled], device: jax.Device) -> bool:
    try:
        memory = compile_step().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return False
    limit = (device.memory_stats() or {}).get("bytes_limit")
    needed = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    return limit is None or needed <= limit
