"""Every array of every model has its place; meshes that cannot be made are refused."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from blip_jax import losses, nn
from blip_jax.runtime.errors import UserError
from blip_jax.train import sharding
from blip_jax.train.mesh import make_mesh
from blip_jax.train.sharding import path_name, shardings, spec_of
from blip_jax.train.state import TrainState


def state_of(config):
    """Shapes of a whole run's state, with AdamW's moments and the momentum weights."""

    def start(key):
        params = nn.init(config, key)
        queue = losses.init_queue(64, config.embed_dim, key)
        opt_state = optax.adamw(1e-3).init(params)
        extra = {"momentum": nn.momentum_params(params), "queue": queue}
        return TrainState(jnp.int32(0), params, extra, opt_state)

    return jax.eval_shape(start, jax.random.key(0))


CONFIGS = {
    "base": nn.preset("base"),
    "large": nn.preset("large"),
    **{
        layout: nn.preset("tiny", med={"sharing": layout})
        for layout in ("all", "all_but_cross_attention", "all_but_self_attention", "none")
    },
}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": 2, "fsdp": 2, "tensor": 2})


@pytest.mark.parametrize("name", CONFIGS)
def test_every_array_has_a_rule(name, mesh):
    state = state_of(CONFIGS[name])
    placed = shardings(state, mesh)
    where = {
        path_name(path): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(placed)
    }
    parameters = {path[7:]: spec for path, spec in where.items() if path.startswith("params/")}
    assert len(parameters) == len(jax.tree.leaves(state.params))
    # Moments and momentum weights lie where their parameter lies.
    for path, spec in where.items():
        for before in ("opt_state/0/mu/", "opt_state/0/nu/", "extra/momentum/"):
            if path.startswith(before):
                assert spec == parameters[path.removeprefix(before)], path
    assert sum(path.startswith("opt_state/0/mu/") for path in where) == len(parameters)


@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.parametrize(
    ("sizes", "in_use", "parts"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, False, 4),
        ({"data": 8}, False, 8),
        ({"data": 8}, True, 1),
    ],
)
def test_all_that_is_large_is_cut(name, sizes, in_use, parts):
    state = state_of(CONFIGS[name])
    placed = jax.tree.leaves(shardings(state, make_mesh(sizes), in_use))
    for (path, leaf), own in zip(jax.tree_util.tree_leaves_with_path(state), placed):
        piece = own.shard_shape(leaf.shape)
        cut = leaf.size / np.prod(piece, dtype=int)
        if leaf.size > 2**20 and "patch" not in path_name(path):
            assert cut == parts, path_name(path)
        assert cut <= parts


def test_specs_of_the_main_kinds():
    assert spec_of("params/vit/blocks/attention/qkv/kernel") == P(
        None, "fsdp", None, "tensor", None
    )
    assert spec_of("opt_state/0/mu/med/encoder_embeddings/word") == P("tensor", "fsdp")
    assert spec_of("extra/momentum/vit/blocks/mlp_out/kernel") == P(None, "tensor", "fsdp")
    assert spec_of("params/vit/blocks/norm1/scale") == P()


@pytest.mark.parametrize("path", ["params/vit/patch/weight", "params/vit/patches/kernel", "other"])
def test_an_unmatched_path_is_an_error_that_names_it(path, mesh):
    with pytest.raises(UserError, match=path):
        spec_of(path)
    tree = {path: jnp.zeros((4, 4))}
    with pytest.raises(UserError, match=path):
        shardings(tree, mesh)


def test_an_array_with_too_few_axes_is_an_error(mesh):
    with pytest.raises(UserError, match="more axes than 'qkv/kernel'"):
        shardings({"qkv": {"kernel": jnp.zeros((4, 4))}}, mesh)


def test_an_axis_that_does_not_divide_is_left_out(mesh):
    tree = {"embeddings": {"word": jnp.zeros((31, 16))}, "lm_head": {"bias": jnp.zeros(31)}}
    placed = shardings(tree, mesh)
    assert placed["embeddings"]["word"].spec == P(None, "fsdp")
    assert placed["lm_head"]["bias"].spec == P(None)
    even = shardings({"embeddings": {"word": jnp.zeros((32, 15))}}, mesh)
    assert even["embeddings"]["word"].spec == P("tensor", None)


# Meshes


def test_mesh_has_its_three_axes_and_fills_up():
    assert dict(make_mesh({}, jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh({"data": -1, "tensor": 2}).shape) == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": -1, "fsdp": 3}, "data -1 x fsdp 3 x tensor 1 does not match the 8 devices"),
        ({"data": 3}, "data 3 x fsdp 1 x tensor 1 does not match the 8 devices"),
        ({"data": -1, "fsdp": 3}, "fsdp 3"),
        ({"data": 16}, "data 16"),
        ({"data": -1, "fsdp": -1}, "8 devices"),
        ({"data": -1, "fsdp": 0}, "fsdp 0"),
        ({"data": -2, "fsdp": -4}, "data -2"),
        ({"model": 2}, "no axis 'model'; its axes are data, fsdp, tensor"),
    ],
)
def test_a_mesh_that_cannot_be_made_is_named(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(sizes)


@pytest.mark.parametrize("kind,axes,divided", [
    ("TPU v4", {"data": 16, "fsdp": 1, "tensor": 1}, True),
    ("TPU v6 lite", {"data": 32, "fsdp": 1, "tensor": 2}, True),
    ("TPU v6 lite", {"data": 8, "fsdp": 8, "tensor": 1}, False),
    ("TPU v5", {"data": 32, "fsdp": 1, "tensor": 1}, True),
    ("TPU v5 lite", {"data": 64, "fsdp": 1, "tensor": 1}, False),
    ("NVIDIA H200", {"data": 8, "fsdp": 1, "tensor": 1}, True),
    ("cpu", {"data": 1, "fsdp": 1, "tensor": 8}, False),
])  # fmt: skip
def test_where_the_state_is_divided_among_the_devices_that_share_a_batch(kind, axes, divided):
    platform = {"TPU": "tpu", "NVIDIA": "gpu"}.get(kind.split()[0], kind)
    device = types.SimpleNamespace(device_kind=kind, platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([device], object), shape=axes)
    assert sharding.divides_over_data(mesh) == divided
    options = sharding.compiler_options(mesh)
    assert all(name.startswith({"tpu": "xla_jf", "cpu": "xla_cpu"}[platform]) for name in options)
    assert bool(options) == (platform != "gpu")
