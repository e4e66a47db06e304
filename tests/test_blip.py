"""The network: sharing, equal ways to compute the same, precision, stochastic depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from blip_jax import nn
from blip_jax.nn import masks
from blip_jax.nn.blip import l2_normalize
from blip_jax.nn.layers import LayerNorm
from blip_jax.nn.med import Embeddings
from blip_jax.nn.med_layers import EPS, MedLayer

IDS, MASK = tiny.texts(3)
IMAGES = tiny.images(3)


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(config, method, params, *args, **kw):
    return nn.Blip(config).apply({"params": params}, *args, method=method, **kw)


@pytest.fixture(scope="module")
def config():
    return tiny.config()


@pytest.fixture(scope="module")
def params(config):
    return tiny.init(config)


@functools.partial(jax.jit, static_argnums=0)
def roles(config, params, images=IMAGES, ids=IDS, mask=MASK):
    """What each role computes: unimodal text, ITM logits, LM logits."""
    call = lambda *args, **kw: nn.Blip(config).apply({"params": params}, *args, **kw)  # noqa: E731
    tokens = call(images, method="encode_image")
    context = {role: call(tokens, role, method="image_context") for role in ("encoder", "decoder")}
    return {
        "text": call(ids, mask, method="encode_text"),
        "itm": call(ids, mask, context["encoder"], method="itm_logits"),
        "lm": call(ids, mask, context["decoder"], method="lm_logits"),
    }


# Sharing (Table 3 of the paper). What is not shared has a copy for each role.

TABLE_3 = {
    "all": {"embeddings", "self_attention", "cross_attention", "ffn"},
    "all_but_cross_attention": {"embeddings", "self_attention", "ffn"},
    "all_but_self_attention": {"embeddings", "cross_attention", "ffn"},
    "none": set(),
}
PARTS = {
    "embeddings": ("embeddings",),
    "self_attention": ("layer/self_attention", "layer/self_attention_norm"),
    "cross_attention": (
        "layer/cross_attention",
        "layer/cross_attention_norm",
        "cross_attention_context",
    ),
    "ffn": ("layer/ffn_in", "layer/ffn_out", "layer/ffn_norm"),
}


def expected_parts(layout):
    """Path of each part of the text transformer to the outputs that it moves."""
    moves = {"lm_head": {"lm"}}
    for part, paths in PARTS.items():
        grounded_only = part == "cross_attention"
        encoder = {"itm"} if grounded_only else {"text", "itm"}
        for path in paths:
            folder, _, name = path.rpartition("/")
            folder = folder and f"{folder}/"
            if part in TABLE_3[layout]:
                moves[path] = encoder | {"lm"}
            else:
                moves[f"{folder}encoder_{name}"] = encoder
                moves[f"{folder}decoder_{name}"] = {"lm"}
    return moves


@pytest.mark.parametrize("layout", TABLE_3)
def test_sharing_has_what_table_3_says(layout):
    config = tiny.config(med={"sharing": layout})
    params = tiny.init(config)
    before = roles(config, params)
    expected = expected_parts(layout)
    med = params["med"]
    flat = {name: value for name, value in med.items() if name != "layers"}
    flat |= {f"layer/{name}": value for name, value in med["layers"]["layer"].items()}
    assert set(flat) == set(expected)
    for path, moved in expected.items():
        changed = dict(flat) | {path: tiny.noisy(flat[path], 5, 0.3)}
        layer = {k[6:]: v for k, v in changed.items() if k.startswith("layer/")}
        rest = {k: v for k, v in changed.items() if "/" not in k}
        after = roles(config, {**params, "med": {**rest, "layers": {"layer": layer}}})
        assert {k for k in after if not np.array_equal(after[k], before[k])} == moved, path


def test_roles_overwrite_the_first_token(config, params):
    tokens = run(config, "encode_image", params, IMAGES)
    context = nn.Blip(config).apply({"params": params}, tokens, "encoder", method="image_context")
    other = np.array(IDS)
    other[:, 0] = 9
    for method in ("itm_logits", "lm_logits"):
        first, second = (run(config, method, params, ids, MASK, context) for ids in (IDS, other))
        np.testing.assert_array_equal(first, second)
    texts = (run(config, "encode_text", params, ids, MASK) for ids in (IDS, other))
    assert not np.allclose(*texts)


def test_pads_change_nothing(config, params):
    ids = np.where(MASK, IDS, 11)
    # Both times as arguments: constants would make two programs, which may round differently.
    before, after = (roles(config, params, ids=x) for x in (jnp.asarray(IDS), jnp.asarray(ids)))
    np.testing.assert_array_equal(before["itm"], after["itm"])
    np.testing.assert_array_equal(before["text"][:, 0], after["text"][:, 0])
    np.testing.assert_array_equal(before["lm"][MASK], after["lm"][MASK])


# Scanned layers are the layers one by one


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_med_scan_is_a_loop(config, params, role):
    med, tokens = params["med"], run(config, "encode_image", params, IMAGES)
    blip = nn.Blip(config)
    context = blip.apply({"params": params}, tokens, role, method="image_context")
    first = config.med.enc_token if role == "encoder" else config.med.dec_token
    ids = nn.set_first_token(IDS, first)
    embeddings = Embeddings(config.med, jnp.float32)
    x = embeddings.apply({"params": med["embeddings"]}, ids, 0, False)
    mask = masks.padding(MASK) if role == "encoder" else masks.decoder(MASK)
    layer = MedLayer(config.med, jnp.float32, role, False)
    for number in range(config.med.depth):
        own, seen = jax.tree.map(lambda w, n=number: w[n], (med["layers"]["layer"], context))
        x, _ = layer.apply({"params": own}, x, (seen,), None, mask, None)
    if role == "encoder":
        scanned = run(config, "encode_text_with_image", params, IDS, MASK, context)
    else:
        scanned = run(config, "lm_logits", params, IDS, MASK, context)
        head = med["lm_head"]
        x = x @ head["dense"]["kernel"] + head["dense"]["bias"]
        x = LayerNorm(EPS).apply({"params": head["norm"]}, jax.nn.gelu(x, approximate=False))
        x = x @ med["embeddings"]["word"].T + head["bias"]
    np.testing.assert_allclose(scanned, x, atol=1e-5)


@pytest.fixture(scope="module")
def gradients(params):
    """(loss, gradients) of a model with dropout in train mode, for each kind of remat."""

    def loss(params, config):
        blip = nn.Blip(config)
        train = {"train": True, "rngs": {"dropout": jax.random.key(4)}}
        call = lambda *args, **kw: blip.apply({"params": params}, *args, **kw)  # noqa: E731
        tokens = call(IMAGES, method="encode_image", **train)
        context = call(tokens, "encoder", method="image_context")
        return jnp.square(call(IDS, MASK, context, method="itm_logits", **train)).sum()

    dropout = {"vit": {"drop_path": 0.3}, "med": {"dropout": 0.1}}
    valued = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    return {
        remat: valued(params, tiny.config(remat=remat, **dropout))
        for remat in ("none", "dots", "full")
    }


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_no_number(gradients, remat):
    (plain, wanted), (loss, found) = gradients["none"], gradients[remat]
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    for want, got in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))


# Decoding with a cache


def test_cached_decoding_is_uncached_decoding(config, params):
    ids = np.random.default_rng(1).integers(5, 30, (3, 7)).astype(np.int32)
    ids[:, 0] = config.med.dec_token
    tokens = run(config, "encode_image", params, IMAGES)
    context = nn.Blip(config).apply({"params": params}, tokens, "decoder", method="image_context")
    whole = run(config, "lm_logits", params, ids, np.ones((3, 7), bool), context)
    cache = nn.init_cache(config, 3, 9)  # with room to spare
    params, context = nn.separate_layers(params), context.separate()
    found, cache = run(config, "decode_step", params, ids[:, :3], context, cache, 0)
    found = [found]
    for position in range(3, 7):
        token = ids[:, position : position + 1]
        logits, cache = run(config, "decode_step", params, token, context, cache, position)
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, atol=1e-5)
    assert [layer.key.shape for layer in cache] == [(3, 9, 4, 4)] * 2
    assert not any(np.any(layer.key[:, 7:]) for layer in cache)


def test_a_generated_token_copies_no_layer_out_of_a_stack(config, params):
    params = nn.separate_layers(params)
    contexts, cache = context_of(config, params, 2).separate(), nn.init_cache(config, 2, 9)
    step = functools.partial(nn.Blip(config).apply, method="decode_step")
    ids = np.zeros((2, 1), np.int32)
    names = str(jax.make_jaxpr(step)({"params": params}, ids, contexts, cache, 3))
    assert "dot_general" in names and "scan" not in names


# Texts on contexts


def test_several_texts_a_context_are_the_context_repeated(config, params):
    context = context_of(config, params, 2)
    ids, mask = tiny.texts(6)
    grouped = run(config, "itm_logits", params, ids, mask, context)
    by_hand = jax.tree.map(lambda x: np.repeat(x, 3, axis=1), context)
    repeated = run(config, "itm_logits", params, ids, mask, by_hand)
    np.testing.assert_allclose(grouped, repeated, atol=1e-6)
    assert not np.allclose(
        grouped[:3], run(config, "itm_logits", params, ids, mask, swap(context))[:3]
    )


@pytest.mark.parametrize(
    "rows",
    [[[3, 0, 0, 2]], [[1, 1], [0, 1]], [[3, 0, 0, 2, 1, 1, 2, 3]], [[1, 0, 1, 1], [1, 1, 0, 0]]],
    ids=["last texts", "last texts in groups", "all texts", "all texts in groups"],
)
def test_texts_pick_contexts_within_their_group(config, params, rows):
    context = context_of(config, params, 4)
    ids, mask = tiny.texts(8)
    picked = run(config, "itm_logits", params, ids, mask, context, np.array(rows))
    per_group = 4 // len(rows)
    index = np.repeat(np.arange(4), 2).reshape(4, 2)  # both texts of each context row
    given = np.array(rows) + per_group * np.arange(len(rows))[:, None]
    last = given.size // 4
    index[:, 2 - last :] = given.reshape(4, last)
    by_hand = jax.tree.map(lambda x: np.asarray(x)[:, index.reshape(-1)], context)
    wanted = run(config, "itm_logits", params, ids, mask, by_hand)
    np.testing.assert_allclose(picked, wanted, atol=1e-6)


def context_of(config, params, count):
    tokens = run(config, "encode_image", params, tiny.images(count, seed=2))
    return nn.Blip(config).apply({"params": params}, tokens, "encoder", method="image_context")


def swap(context):
    return jax.tree.map(lambda x: x[:, ::-1], context)


# Numbers at the edge


def test_unit_has_unit_length_and_a_finite_gradient_at_0():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    gradient = jax.grad(lambda x: l2_normalize(x)[:, 0].sum())(x)
    assert np.isfinite(gradient).all()
    # (1 - 0.6^2) / 5 along the first axis, -0.6 * 0.8 / 5 along the second.
    np.testing.assert_allclose(gradient[0], [0.128, -0.096], rtol=1e-5)


def test_bfloat16_computes_near_float32_with_float32_parameters(config, params):
    half = tiny.config(dtype="bfloat16", vit={"drop_path": 0.1}, med={"dropout": 0.1})
    fresh = jax.eval_shape(lambda key: nn.init(half, key), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    found, wanted = roles(half, params), roles(config, params)
    assert found["text"].dtype == jnp.bfloat16
    assert found["itm"].dtype == found["lm"].dtype == jnp.float32
    for name, want in wanted.items():
        # Some dozen roundings to 8 bits.
        np.testing.assert_allclose(
            np.float32(found[name]), want, atol=0.04 * np.abs(want).max(), err_msg=name
        )
    assert nn.init_cache(half, 1, 4)[0].key.dtype == jnp.bfloat16
