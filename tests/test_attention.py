"""Attention of long sequences on a CPU: one head after the other, equal to all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax.nn import attention

LONG = 128  # tokens: a head has MIN_SCORES_OF_HEAD scores


def arrays(tokens, dtype=jnp.float32):
    """Returns query, key and value [2, tokens, 3, 8]."""
    normal = np.random.default_rng(0).standard_normal((3, 2, tokens, 3, 8))
    return [jnp.asarray(x, dtype) for x in normal]


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_heads_one_after_the_other_are_all_heads(dtype, atol):
    one, every = attention.attend_by_head, attention.attend_all
    query, key, value = arrays(24, dtype)
    found, wanted = one(query[:, :17], key, value), every(query[:, :17], key, value)
    assert found.dtype == wanted.dtype == dtype
    np.testing.assert_allclose(found.astype("float32"), wanted.astype("float32"), atol=atol)


def test_heads_one_after_the_other_have_the_gradients_of_all_heads():
    gradient = [
        jax.grad(lambda *x, f=f: jnp.sum(jnp.sin(f(*x))), (0, 1, 2))(*arrays(24))
        for f in (attention.attend_by_head, attention.attend_all)
    ]
    for found, wanted in zip(*gradient, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "tokens", "devices", "loops"),
    [("cpu", LONG, 1, 1), ("tpu", LONG, 1, 0), ("cpu", LONG - 1, 1, 0), ("cpu", LONG, 8, 0)],
)
def test_one_cpu_computes_long_sequences_by_head(monkeypatch, platform, tokens, devices, loops):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    traced = jax.jit(functools.partial(attention.attend, mask=None)).trace(*arrays(tokens))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops


def test_masked_and_gated_attention_takes_all_heads_at_once(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    mask, gate = jnp.ones((1, 1, 1, LONG), bool), jnp.ones((2, 3, LONG, LONG))
    for options in ({"mask": mask}, {"mask": None, "gate": gate}):
        text = (
            jax.jit(lambda *x, o=options: attention.attend(*x, **o)).lower(*arrays(LONG)).as_text()
        )
        assert "stablehlo.while" not in text
