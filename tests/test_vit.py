"""The vision transformer: patches, layers, stochastic depth, and positions of other image sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from blip_jax import nn
from blip_jax.nn.layers import LayerNorm
from blip_jax.nn.vit import Block, patches

IMAGES = tiny.images(3)


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


@functools.partial(jax.jit, static_argnums=0)
def tokens(config, params):
    return nn.Blip(config).apply({"params": params}, IMAGES, method="encode_image")


@pytest.fixture(scope="module")
def config():
    return tiny.config()


@pytest.fixture(scope="module")
def params(config):
    return tiny.init(config)


@pytest.mark.parametrize("scan_unroll", [1, 2])
def test_scan_is_a_loop(config, params, scan_unroll):
    vit = params["vit"]
    x = patches(IMAGES, 8) @ vit["patch"]["kernel"] + vit["patch"]["bias"]
    x = np.concatenate([np.repeat(vit["cls"], len(x), 0), x], 1) + vit["position"]
    block = Block(config.vit, jnp.float32, False)
    for number in range(config.vit.depth):
        layer = jax.tree.map(lambda w, n=number: w[n], vit["blocks"])
        x, _ = block.apply({"params": layer}, x, 0.0)
    x = LayerNorm(1e-6).apply({"params": vit["norm"]}, x)
    scanned = tokens(tiny.config(scan_unroll=scan_unroll), params)
    np.testing.assert_allclose(scanned, x, atol=1e-5)


def test_patches_are_in_reading_order():
    image = np.zeros((1, 4, 4, 3), np.float32)
    image[0, 0, 3], image[0, 2, 0] = 1, 2  # top right patch, bottom left patch
    x = np.asarray(patches(jnp.asarray(image), 2))
    assert x[0, :, ::3].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


# Stochastic depth


def drop_block(rate, x, train=True):
    config = tiny.config(vit={"drop_path": 0.5}).vit
    params = tiny.init(tiny.config())["vit"]["blocks"]
    block = Block(config, jnp.float32, train)
    one = {"params": jax.tree.map(lambda w: w[0], params)}
    return np.asarray(
        block.apply(one, x, jnp.float32(rate), rngs={"dropout": jax.random.key(0)})[0]
    )


def test_stochastic_depth_of_rate_0_is_the_identity():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 16)), jnp.float32)
    np.testing.assert_array_equal(drop_block(0.0, x), drop_block(0.5, x, train=False))


def test_stochastic_depth_drops_whole_branches():
    x = np.random.default_rng(0).normal(size=(1, 5, 16)).astype(np.float32)
    rows = drop_block(0.5, jnp.repeat(jnp.asarray(x), 200, axis=0)).round(3)
    kinds, counts = np.unique(rows.reshape(200, -1), axis=0, return_counts=True)
    # Attention kept or not, MLP kept or not; nothing in between, each about as often.
    assert len(kinds) == 4 and counts.min() > 30
    assert any(np.allclose(kind, x.reshape(-1), atol=1e-3) for kind in kinds)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_stochastic_depth_keeps_the_mean(rate):
    block = Block(tiny.config(vit={"drop_path": 0.5}).vit, jnp.float32, True)
    y = jnp.ones((4000, 2, 3))
    keys = {"dropout": jax.random.key(1)}
    out = np.asarray(block.apply({}, y, jnp.float32(rate), method="drop_path", rngs=keys))
    assert set(np.unique(out.round(4))) == {0.0, np.float32(1 / (1 - rate)).round(4)}
    assert (out == out[:, :1, :1]).all()
    assert out.mean() == pytest.approx(1, abs=0.05)


def test_stochastic_depth_spares_the_first_layer(params):
    config = tiny.config(vit={"drop_path": 0.9, "depth": 1})
    one = {**params["vit"], "blocks": jax.tree.map(lambda w: w[:1], params["vit"]["blocks"])}
    blip, values = nn.Blip(config), {"params": {**params, "vit": one}}
    plain = blip.apply(values, IMAGES, method="encode_image")
    rngs = {"dropout": jax.random.key(0)}
    trained = blip.apply(values, IMAGES, True, method="encode_image", rngs=rngs)
    np.testing.assert_array_equal(plain, trained)


# Position embeddings


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 12), (3, 3)])
def test_resized_position_is_torchs_bicubic(old, new):
    torch = pytest.importorskip("torch")
    position = np.random.default_rng(0).normal(size=(1, old**2 + 1, 6)).astype(np.float32)
    found = nn.resize_position_embedding(position, new**2 + 1)
    grid = torch.tensor(position[:, 1:].reshape(1, old, old, 6)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    wanted = grid.permute(0, 2, 3, 1).reshape(1, new * new, 6).numpy()
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-5)


def test_resized_position_keeps_cls_and_constants():
    position = np.ones((1, 17, 3), np.float32)
    position[0, 0] = [5, 6, 7]
    found = nn.resize_position_embedding(position, 50)
    assert found.shape == (1, 50, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0, 0], [5, 6, 7])
    np.testing.assert_allclose(found[0, 1:], 1, atol=1e-6)


def test_the_gradient_through_a_bfloat16_norm_is_that_of_float32_rounded():
    """Its terms cancel, so that their sum in bfloat16 would keep few digits."""
    x = (jax.random.normal(jax.random.key(0), (3, 5, 32)) + 20).astype(jnp.bfloat16)
    weight = jax.random.normal(jax.random.key(1), x.shape)

    def gradient(x, dtype):
        norm = LayerNorm(1e-6)
        params = norm.init(jax.random.key(2), x)
        return jax.grad(lambda x: (weight * norm.apply(params, x)).sum())(x).astype(dtype)

    want = gradient(x.astype(jnp.float32), jnp.bfloat16)
    np.testing.assert_array_equal(gradient(x, jnp.bfloat16), want)
