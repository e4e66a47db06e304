"""The TPU kernel, run without a TPU, equals attention that stores the scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blip_jax import nn
from blip_jax.nn import attention, attention_kernel, fused_attention
from blip_jax.nn.attention_kernel import ContextStack, Inputs
from blip_jax.runtime.config import replace

WIDTH = 64
RATE = 0.25


@pytest.fixture
def seen(monkeypatch):
    """Runs kernels without a TPU; a list of the inputs that each device's kernel gets."""
    monkeypatch.setattr(fused_attention, "_platform", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    whole, found = attention_kernel.run_kernel, []

    def interpreted(kernel, inputs, **options):
        found.append(inputs)
        return whole(kernel, inputs, **options, interpret=True)

    monkeypatch.setattr(attention_kernel, "run_kernel", interpreted)
    return found


def arrays(rows=2, queries=17, keys=24, heads=3, dtype="float32", width=WIDTH):
    """Returns query, key and value, heads side by side."""
    draw = np.random.default_rng(0).standard_normal
    lengths = (queries, keys, keys)
    return [jnp.asarray(draw((rows, length, heads * width)), dtype) for length in lengths]


def masks(rows=2, queries=17, keys=24):
    """Returns masks int8 by name; in each a query may attend to nothing."""
    padding = np.arange(keys) < np.array([[keys - 5], [0]]).repeat(rows // 2, axis=0)
    causal = np.tri(queries, keys) * (np.arange(queries) > 0)[:, None]
    both = np.broadcast_to(causal, (rows, queries, keys)) * padding[:, None]
    return {"none": None, "padding": jnp.int8(padding[:, None]), "causal": jnp.int8(both)}


def kept(rows=2, heads=3, queries=17, keys=24):
    drawn = np.random.default_rng(1).random((rows, heads, queries, keys)) > RATE
    return jnp.asarray(drawn, jnp.int8)


def plain(query, key, value, mask=None, keep=None, width=WIDTH):
    """Attention that stores the scores."""
    split = lambda x: x.reshape(*x.shape[:2], -1, width)  # noqa: E731
    mask = None if mask is None else mask[:, None].astype(bool)
    dropout = None if keep is None else lambda x: x * keep / (1 - RATE)
    y = attention.attend(split(query), split(key), split(value), mask, dropout)
    return y.reshape(query.shape)


def fused(query, key, value, mask=None, keep=None, stack=None, width=WIDTH):
    return fused_attention.fused_attention(query, key, value, width, RATE, mask, keep, stack)


def gradients(function, operands, *options):
    return jax.vjp(lambda *x: function(*x, *options), *operands)[1](jnp.sin(operands[0]))


def assert_equal(found, wanted, atol=1e-5):
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x.astype("float32"), y.astype("float32"), atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("bfloat16", 0.02)])
def test_it_is_attention(seen, dtype, atol):
    operands = arrays(dtype=dtype)
    found = fused(*operands)
    assert found.dtype == dtype
    assert_equal([found], [plain(*operands)], atol)
    assert len(seen) == 1


@pytest.mark.parametrize("keep", [None, kept()], ids=["evaluation", "dropout"])
@pytest.mark.parametrize("mask", masks())
def test_masks_and_dropout(seen, mask, keep):
    operands, options = arrays(), (masks()[mask], keep)
    assert_equal([fused(*operands, *options)], [plain(*operands, *options)])
    assert_equal(gradients(fused, operands, *options), gradients(plain, operands, *options))
    assert len(seen) == 3  # forward, and forward and backward of the gradients


@pytest.mark.parametrize(("heads", "block"), [(3, 3), (4, 2)])
def test_a_block_holds_some_of_the_heads(seen, monkeypatch, heads, block):
    monkeypatch.setattr(attention_kernel, "MAX_BLOCK_BYTES", 2**14)
    operands, keep = arrays(heads=heads), kept(heads=heads)
    stack = ContextStack(operands[1][None], operands[2][None], jnp.int32(0))
    assert attention_kernel.heads_per_block(Inputs(operands[0], stack), WIDTH) == block
    options = masks()["causal"], keep
    assert_equal(gradients(fused, operands, *options), gradients(plain, operands, *options))


@pytest.mark.parametrize("rows", [None, [[1, 0], [1, 1]]], ids=["own", "others"])
def test_keys_and_values_are_read_from_a_stack(seen, rows):
    """What is given as keys and values has no part in the result, but takes the gradients."""
    query, key, value = arrays(rows=4)
    stack = ContextStack(
        jnp.stack([value, key, value]),
        jnp.stack([key, value, key]),
        jnp.int32(1),
        None if rows is None else jnp.array(rows),
    )
    index = jnp.array([0, 1, 2, 3] if rows is None else [1, 0, 3, 3])
    wanted = plain(query, key[index], value[index])
    nothing = jnp.full_like(key, jnp.nan)
    assert_equal([fused(query, nothing, nothing, stack=stack)], [wanted])

    found = gradients(fused, (query, nothing, nothing), None, None, stack)
    assert_equal(found, gradients(plain, (query, key[index], value[index])))


def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))


def test_a_mesh_splits_the_kernel(seen):
    """Each of 8 devices runs the kernel on its rows and heads, forward and backward."""
    sizes = {"rows": 8, "heads": 4}
    operands, keep = arrays(**sizes, width=8), kept(**sizes)
    mask = masks(rows=8)["causal"]
    rows = jnp.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    index = (rows + 2 * jnp.arange(4)[:, None]).reshape(-1)
    sharding = NamedSharding(mesh(), PartitionSpec(("data", "fsdp")))

    @functools.partial(jax.jit, in_shardings=sharding)
    def run(operands, mask, keep, rows):
        query, key, value = operands
        stack = ContextStack(key[None], value[None], jnp.int32(0), rows)
        function = functools.partial(fused, width=8)
        with jax.sharding.use_abstract_mesh(mesh().abstract_mesh):
            return gradients(function, operands, mask, keep, stack)

    query, key, value = operands
    function = functools.partial(plain, width=8)
    wanted = gradients(function, (query, key[index], value[index]), mask, keep)
    assert_equal(run(operands, mask, keep, rows), wanted)
    assert [x.query.shape for x in seen] == [(2, 17, 16)] * 2
    assert [x.keep.shape for x in seen] == [(2, 2, 17, 24)] * 2


def test_pmap_runs_the_kernel_on_each_device(seen):
    operands = arrays()
    found = jax.pmap(fused)(*(jnp.stack([x] * 8) for x in operands))
    assert_equal([found[7]], [plain(*operands)])
    assert [x.query.shape for x in seen] == [operands[0].shape]


CONFIG = nn.BlipConfig(
    vit=nn.ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2),
    med=nn.MedConfig(width=32, depth=3, heads=2, mlp_dim=64, vocab_size=50),
    embed_dim=16,
    dtype="float32",
)


def itm_and_lm(params, config, batch):
    """Returns a loss of ITM with other images, and of LM, as the pre-training step computes them.

    Each image has two texts of its own and one that reads another image.
    """
    network, key = nn.Blip(config), jax.random.key(3)
    apply = functools.partial(network.apply, {"params": params}, rngs={"dropout": key})
    tokens = apply(batch["image"], True, method="encode_image")
    context = apply(tokens, "encoder", method="image_context")
    ids, mask = (x.repeat(3, axis=0) for x in (batch["ids"], batch["mask"]))
    index = jnp.array([[1, 0], [1, 1]])
    itm = apply(ids, mask, context, index, True, method="itm_logits")
    lm = apply(batch["ids"], batch["mask"], context, True, method="lm_logits")
    return jnp.sin(itm).sum() + (jnp.sin(lm).mean(-1) * batch["mask"]).mean()


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_training_by_kernels_is_training(seen, monkeypatch, remat):
    """Losses and gradients of all layers are those of attention that stores its scores."""
    config = replace(CONFIG, remat=remat)
    # The same numbers are not dropped in both, as they draw them in another order and shape.
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, p, shape: jnp.ones(shape, bool))
    draw = np.random.default_rng(0)
    length = np.array([20, 18, 17, 5])
    batch = {
        "image": jnp.float32(draw.standard_normal((4, 32, 32, 3))),
        "ids": jnp.asarray(draw.integers(0, 48, (4, 20))),
        "mask": jnp.arange(20) < length[:, None],
    }
    params = nn.init(config, jax.random.key(0))
    seen.clear()
    found = jax.value_and_grad(itm_and_lm)(params, config, batch)
    # Images and the LM's texts, ITM's texts, and the contexts of three layers.
    assert {x.context.key.shape[:2] for x in seen} == {(1, 4), (1, 12), (3, 4)}
    assert any(x.keep is not None for x in seen)
    with fused_attention.plain_attention():
        wanted = jax.value_and_grad(itm_and_lm)(params, config, batch)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    assert_equal(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]))


def test_each_step_drops_other_probabilities(seen):
    layer = attention.CrossAttention(2, 0.02, 0.02, jnp.float32, RATE, True)
    context = attention.CrossAttentionContext(*jnp.ones((2, 1, 4, 2, 20, 16)))
    context = context.with_stack(4, 18)
    one = context._replace(
        key=context.key[0], value=context.value[0], stack=context.stack._replace(layer=0)
    )
    x = jnp.ones((4, 18, 32))
    params = layer.init(jax.random.key(0), x, one)
    first, second = (
        layer.apply(params, x, one, rngs={"dropout": jax.random.key(k)}) for k in (1, 2)
    )
    share = [np.mean(np.asarray(inputs.keep)) for inputs in seen[-2:]]
    np.testing.assert_allclose(share, 1 - RATE, atol=0.05)
    assert not np.array_equal(seen[-1].keep, seen[-2].keep)
    assert not np.allclose(first, second)
