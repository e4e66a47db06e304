"""Attention by head, on CPUs, equals that which stores the scores; which sizes are fused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

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


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_it_is_attention(dtype, atol):
    query, key, value = arrays(24, dtype)
    found = fused_attention.attend_by_head(query[:, :17], key, value, WIDTH)
    wanted = plain(query[:, :17], key, value)
    assert found.dtype == wanted.dtype == dtype
    np.testing.assert_allclose(found.astype("float32"), wanted.astype("float32"), atol=atol)


def gradients(function, operands):
    function = functools.partial(function, width=WIDTH)
    return jax.vjp(function, *operands)[1](jnp.sin(operands[0]))


def test_its_gradients_are_those_of_attention():
    operands = arrays(24)
    operands[0] = operands[0][:, :17]
    found = gradients(fused_attention.attend_by_head, operands)
    for x, y in zip(found, gradients(plain, operands), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))


@pytest.mark.parametrize(
    ("platform", "queries", "keys", "devices", "found"),
    [
        ("cpu", LONG, LONG, 1, "loop"),
        ("cpu", LONG // 4, 4 * LONG, 1, "loop"),
        ("cpu", LONG - 1, LONG, 1, "none"),
        ("cpu", LONG, LONG, 8, "none"),
        ("tpu", LONG, LONG, 1, "kernel"),
        ("tpu", 30, 30, 1, "kernel"),
        ("tpu", 1, LONG, 1, "none"),  # a token of each caption
        ("tpu", 100 * LONG, LONG, 1, "none"),  # scores that VMEM does not hold
        ("tpu", LONG, LONG, 8, "none"),
        ("gpu", LONG, LONG, 1, "none"),
    ],
)
def test_the_backend_decides_without_a_mesh(monkeypatch, platform, queries, keys, devices, found):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert fused_attention.uses_head_loop(queries, keys) == (found == "loop")
    assert fused_attention.uses_kernel(2, queries, keys, 3) == (found == "kernel")


@pytest.mark.parametrize(("rows", "heads", "fused"), [(4, 4, True), (6, 4, False), (4, 3, False)])
def test_a_mesh_of_tpus_must_split_rows_and_heads(monkeypatch, rows, heads, fused):
    monkeypatch.setattr(fused_attention, "_platform", lambda: "tpu")
    with jax.sharding.use_abstract_mesh(mesh().abstract_mesh):
        assert fused_attention.uses_kernel(rows, LONG, LONG, heads) == fused


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
