"""Fused attention, by head on CPUs and by a kernel on TPUs, equals that which stores the scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blip_jax.nn import attention, fused_attention

LONG = 128  # tokens: a head has MIN_SCORES_OF_HEAD scores
WIDTH = 8


def arrays(tokens, dtype=jnp.float32, heads=3, width=WIDTH):
    """Returns query, key and value [2, tokens, heads * width]."""
    normal = np.random.default_rng(0).standard_normal((3, 2, tokens, heads * width))
    return [jnp.asarray(x, dtype) for x in normal]


def split(x, width=WIDTH):
    return x.reshape(*x.shape[:2], -1, width)


def plain(*operands, width=WIDTH):
    """Attention that stores the scores; short sequences are never fused."""
    y = attention.attend(*(split(x, width) for x in operands))
    return y.reshape(operands[0].shape)


def forward_kernel(*operands, width=WIDTH):
    kernel = fused_attention._forward_kernel
    return fused_attention.run_kernel(
        kernel, *operands, results=1, width=width, products=2, interpret=True
    )[0]


@pytest.mark.parametrize(
    "fused", [functools.partial(fused_attention.attend_by_head, width=WIDTH), forward_kernel]
)
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_it_is_attention(fused, dtype, atol):
    query, key, value = arrays(24, dtype)
    found, wanted = fused(query[:, :17], key, value), plain(query[:, :17], key, value)
    assert found.dtype == wanted.dtype == dtype
    np.testing.assert_allclose(found.astype("float32"), wanted.astype("float32"), atol=atol)


def gradients(function, operands, width=WIDTH):
    function = functools.partial(function, width=width)
    return jax.vjp(function, *operands)[1](jnp.sin(operands[0]))


@pytest.mark.parametrize("heads", [3, 4])
def test_its_gradients_are_those_of_attention(monkeypatch, heads):
    monkeypatch.setattr(fused_attention, "MAX_BLOCK_BYTES", 2**14)  # a block: 2 of 4 heads
    operands = arrays(24, heads=heads, width=64)
    operands[0] = operands[0][:, :17]
    assert fused_attention.heads_per_block(operands, 64) == {3: 3, 4: 2}[heads]
    wanted = gradients(plain, operands, 64)
    by_head = gradients(fused_attention.attend_by_head, operands, 64)
    kernel = fused_attention._backward_kernel
    by_kernel = fused_attention.run_kernel(
        kernel, *operands, jnp.sin(operands[0]), results=3, width=64, products=5, interpret=True
    )
    for found in (by_head, by_kernel):
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))


@pytest.mark.parametrize(
    ("platform", "queries", "keys", "devices", "fused"),
    [
        ("cpu", LONG, LONG, 1, True),
        ("tpu", LONG, LONG, 1, True),
        ("gpu", LONG, LONG, 1, False),
        ("cpu", LONG - 1, LONG, 1, False),
        ("cpu", LONG // 4, 4 * LONG, 1, True),
        ("tpu", LONG // 4, 4 * LONG, 1, False),
        ("cpu", LONG, LONG, 8, False),
        ("tpu", LONG, LONG, 8, False),
    ],
)
def test_the_backend_decides_without_a_mesh(monkeypatch, platform, queries, keys, devices, fused):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert fused_attention.is_fused(2, queries, keys, 3) == fused


@pytest.mark.parametrize(("rows", "heads", "fused"), [(4, 4, True), (6, 4, False), (4, 3, False)])
def test_a_mesh_of_tpus_must_split_rows_and_heads(monkeypatch, rows, heads, fused):
    monkeypatch.setattr(fused_attention, "_platform", lambda: "tpu")
    with jax.sharding.use_abstract_mesh(mesh().abstract_mesh):
        assert fused_attention.is_fused(rows, LONG, LONG, heads) == fused


@pytest.fixture
def kernel_shapes(monkeypatch):
    """Runs kernels without a TPU; a list of the shapes of their queries."""
    monkeypatch.setattr(fused_attention, "_platform", lambda: "tpu")
    whole, seen = fused_attention.run_kernel, []

    def interpreted(kernel, *operands, **options):
        seen.append(operands[0].shape)
        return whole(kernel, *operands, **options, interpret=True)

    monkeypatch.setattr(fused_attention, "run_kernel", interpreted)
    return seen


def attend_fused(*operands, width=WIDTH):
    return fused_attention.fused_attention(*operands, width)


def test_a_mesh_splits_the_kernel(kernel_shapes):
    """Each of 8 devices runs the kernel on its rows and heads, forward and backward."""
    operands = [jnp.concatenate([x, x[::-1]]) for x in arrays(24, heads=4)]
    sharding = NamedSharding(mesh(), PartitionSpec(("data", "fsdp")))

    @functools.partial(jax.jit, in_shardings=sharding)
    def run(operands):
        with jax.sharding.use_abstract_mesh(mesh().abstract_mesh):
            return gradients(attend_fused, operands)

    for x, y in zip(run(operands), gradients(plain, operands), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert kernel_shapes == [(1, 24, 2 * WIDTH)] * 2


def test_pmap_runs_the_kernel_on_each_device(kernel_shapes):
    operands = arrays(LONG, heads=4)
    found = jax.pmap(attend_fused)(*(jnp.stack([x] * 8) for x in operands))
    np.testing.assert_allclose(found[7], plain(*operands), atol=1e-5)
    assert kernel_shapes == [(2, LONG, 4 * WIDTH)]


def test_one_cpu_computes_long_sequences_by_head(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    text = jax.jit(lambda *x: attention.attend(*x)).lower(*map(split, arrays(LONG))).as_text()
    assert text.count("stablehlo.while") == 1


def test_masked_and_gated_attention_stores_the_scores(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    mask, gate = jnp.ones((1, 1, 1, LONG), bool), jnp.ones((2, 3, LONG, LONG))
    for options in ({"mask": mask}, {"mask": None, "gate": gate}):
        text = (
            jax.jit(lambda *x, o=options: attention.attend(*x, **o))
            .lower(*map(split, arrays(LONG)))
            .as_text()
        )
        assert "stablehlo.while" not in text
