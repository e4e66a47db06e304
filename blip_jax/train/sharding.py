"""The placement of every array of the state: (regex, PartitionSpec), the first match wins."""

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from blip_jax.runtime.errors import UserError

# Patterns may match any part of a path. So the optimizer's moments and the momentum weights, whose
# paths end like their parameter's, get the same sharding as the parameter. A leading None is the
# axis of stacked layers.
RULES = [
    (r"qkv/kernel$", P(None, "fsdp", None, "tensor", None)),
    (r"qkv/bias$", P(None, None, "tensor", None)),
    (r"query/kernel$", P(None, "fsdp", "tensor", None)),
    (r"query/bias$", P(None, "tensor", None)),
    (r"context/(key|value)_kernel$", P(None, "fsdp", "tensor", None)),
    (r"context/(key|value)_bias$", P(None, "tensor", None)),
    (r"/out/kernel$", P(None, "tensor", None, "fsdp")),
    (r"(mlp|ffn)_in/kernel$", P(None, "fsdp", "tensor")),
    (r"(mlp|ffn)_in/bias$", P(None, "tensor")),
    (r"(mlp|ffn)_out/kernel$", P(None, "tensor", "fsdp")),
    (r"embeddings/word$", P("tensor", "fsdp")),
    (r"(lm_head/dense|pooler|classifier_in)/kernel$", P("fsdp", "tensor")),
    (r"layers/merge_kernel$", P(None, "fsdp", "tensor")),
    (r"lm_head/bias$", P("tensor")),
    (r"vit/patch/kernel$", P(None, "fsdp")),
    # Small arrays, replicated: norms, other biases, positions, the heads' projections.
    (r"(scale|bias)$", P()),
    (r"(vit/cls|position|temperature)$", P()),
    (r"(vision_proj|text_proj|classifier_out|\w_head)/kernel$", P()),
    (r"(^step|count)$", P()),
    # Other arrays that a task keeps in the state, e.g. the queue of past features, are replicated.
    (r"^extra/", P()),
]


def spec_of(path: str) -> P:
    """Returns the PartitionSpec of the array at `path` ("params/vit/patch/kernel").

    Raises:
      UserError: no rule matches; nothing is left to chance.
    """
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    raise UserError(
        f"no sharding rule for {path!r}; end the name of the layer with _head, which replicates "
        "it, or add a rule to train/sharding.py"
    )


def shardings(state: Any, mesh: Mesh, in_use: bool = False) -> Any:
    """Returns the NamedSharding of each array of `state` (arrays or shapes), in the same structure.

    An axis of the mesh that does not divide the dimension is left out there.

    Args:
      in_use: as a step computes with parameters; see `place`.
    """

    def sharding_of(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        spec = spec_of(name)
        if len(spec) > leaf.ndim:
            raise UserError(f"sharding rule {spec} has more axes than {name!r} {leaf.shape}")
        fitting = [
            _fitting_axes(axis, size, mesh, in_use)
            for axis, size in zip(spec, leaf.shape, strict=False)
        ]
        return NamedSharding(mesh, P(*fitting))

    return jax.tree_util.tree_map_with_path(sharding_of, state)


def _fitting_axes(axis: str | None, size: int, mesh: Mesh, in_use: bool) -> str | None:
    """Returns the axis of the mesh that splits a dimension for which a rule names `axis`."""
    if axis == "fsdp" and not in_use and divides_over_data(mesh):
        axis = "data"
    return axis if axis and size % mesh.shape[axis] == 0 else None


# TPUs for which the compiled step is slower with a divided state: on v5e ViT-B takes 374 ms, not
# 65, as it gathers 73 GB of parameters.
WHOLE_ON = ("TPU v5 lite",)
# No "collective matmul": with a divided state the compiler would compute some products part by
# part, to hide the exchange of their operands, and move more bytes of HBM than that is worth. ViT-B
# took 302 ms on v4-32 in place of 203, and on 16 chips of v6e 60 in place of 47.
TPU_COMPILER_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
# Temporary memory of a step of ViT-B on 4 pairs: 2,137 MiB, and 2,478 without these options.
CPU_COMPILER_OPTIONS = {
    # By default each array of the queue is copied twice, though the step may overwrite them.
    "xla_cpu_copy_insertion_use_region_analysis": "True",
    # By default zeros for the gradients of all passes are allocated when the step begins. This
    # order of operations keeps arrays for a shorter time; with it a step takes 2 to 5 % longer.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


def divides_over_data(mesh: Mesh) -> bool:
    """Returns whether `data` splits the state between steps where rules name `fsdp`.

    Not where `fsdp` itself does, nor on the TPUs of WHOLE_ON.
    """
    if mesh.devices.flat[0].device_kind.startswith(WHOLE_ON):
        return False
    return mesh.shape["data"] > 1 and mesh.shape["fsdp"] == 1


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns the compiler options of a training step."""
    options = {"tpu": TPU_COMPILER_OPTIONS, "cpu": CPU_COMPILER_OPTIONS}
    return options.get(mesh.devices.flat[0].platform, {})


def place(mesh: Mesh, tree: Any, in_use: bool) -> Any:
    """Returns a state's arrays, or some of them, with the placement of `shardings`; within jit.

    If `data` divides the state between steps, each device updates its part alone, and parameters
    are gathered once a step: which takes no more communication than adding up gradients on all
    devices. On other meshes nothing is placed anew.

    Args:
      tree: paths in it are those in a state, as in {"params": …}.
      in_use: as a step computes with parameters; False: as they are kept.
    """
    if not divides_over_data(mesh):
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings(tree, mesh, in_use))


def path_name(path: tuple) -> str:
    """Returns a key path of `jax.tree_util` as "params/vit/cls"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
