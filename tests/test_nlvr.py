"""Two images a statement: which is which, how they are merged, equal ways to the same."""

import functools

import jax
import numpy as np
import pytest
import tiny

from blip_jax import nn

IDS, MASK = tiny.texts(3, seed=5)
FIRST, SECOND = tiny.images(3, seed=1), tiny.images(3, seed=2)
ATTENTIONS = "cross_attention", "cross_attention_2"


def config_of(first_learned_merge_layer=1, **changes):
    """Two layers; by default the first takes the mean and the second merges."""
    return tiny.config(med={"first_learned_merge_layer": first_learned_merge_layer}, **changes)


CONFIG = config_of()


@pytest.fixture(scope="module")
def params():
    return tiny.init(CONFIG, 3, "nlvr")


@functools.partial(jax.jit, static_argnums=0)
def judged(config, params, first=FIRST, second=SECOND, ids=IDS, mask=MASK):
    """Logits float32 [B, 2]."""
    network = nn.Nlvr(config)
    call = functools.partial(network.apply, {"params": params})
    tokens = [call(images, method="encode_image") for images in (first, second)]
    contexts = call(*tokens, method="image_contexts")
    return call(ids, mask, contexts, method="logits")


def without_merge(params):
    """The parameters of a model of which all layers take the mean."""
    layers = {"layer": params["med"]["layers"]["layer"]}
    return {**params, "med": {**params["med"], "layers": layers}}


def swapped(params, same=False):
    """The two cross-attentions exchanged; or the first in the place of the second too."""
    med = dict(params["med"])
    layer = dict(med["layers"]["layer"])
    for tree, end in ((med, "_context"), (layer, "")):
        one, two = (tree[f"{name}{end}"] for name in ATTENTIONS)
        if same:
            two = one
        tree |= {f"{ATTENTIONS[0]}{end}": two, f"{ATTENTIONS[1]}{end}": one}
    return {**params, "med": {**med, "layers": {**med["layers"], "layer": layer}}}


def test_each_image_has_its_place(params):
    wanted = judged(CONFIG, params)
    assert np.abs(judged(CONFIG, params, SECOND, FIRST) - wanted).min() > 1e-3
    for pair in ((FIRST, FIRST), (SECOND, SECOND)):
        assert np.abs(judged(CONFIG, params, *pair) - wanted).min() > 1e-3


def test_in_the_mean_images_change_places_with_their_cross_attentions(params):
    config, params = config_of(2), without_merge(params)
    wanted = judged(config, params)
    found = judged(config, swapped(params), SECOND, FIRST)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(judged(config, params, SECOND, FIRST) - wanted).max() > 1e-2


@pytest.mark.parametrize("first_learned_merge_layer", [2, 6])
def test_the_mean_of_the_same_twice_is_an_encoder_of_one_image(params, first_learned_merge_layer):
    config = config_of(first_learned_merge_layer)
    same = swapped(without_merge(params), same=True)
    one = {name: same[name] for name in ("vit", "med")}
    call = functools.partial(nn.Blip(config).apply, {"params": one})

    def states():
        tokens = call(FIRST, method="encode_image")
        context = call(tokens, "encoder", method="image_context")
        return call(IDS, MASK, context, method="encode_text_with_image")

    x = jax.jit(states)()[:, 0] @ same["classifier_in"]["kernel"] + same["classifier_in"]["bias"]
    wanted = np.maximum(x, 0) @ same["classifier_out"]["kernel"] + same["classifier_out"]["bias"]
    np.testing.assert_allclose(judged(config, same, FIRST, FIRST), wanted, atol=1e-5)
    assert np.abs(judged(config, same, FIRST, SECOND) - wanted).max() > 1e-2


def merging(params, kernel, bias=0.0):
    """Parameters whose merging layers are all the same."""
    layers = dict(params["med"]["layers"])
    layers["merge_kernel"] = np.broadcast_to(kernel, layers["merge_kernel"].shape)
    layers["merge_bias"] = np.broadcast_to(bias, layers["merge_bias"].shape)
    return {**params, "med": {**params["med"], "layers": layers}}


@pytest.mark.parametrize("first_learned_merge_layer", [0, 1])
def test_merging_with_halves_is_the_mean(first_learned_merge_layer):
    config = config_of(first_learned_merge_layer)
    params = tiny.init(config, 3, "nlvr")
    assert params["med"]["layers"]["merge_kernel"].shape == (2 - first_learned_merge_layer, 32, 16)
    assert params["med"]["layers"]["merge_bias"].shape == (2 - first_learned_merge_layer, 16)
    half = np.concatenate([np.eye(16), np.eye(16)]) / 2
    wanted = judged(config_of(2), without_merge(params))
    np.testing.assert_allclose(judged(config, merging(params, half)), wanted, atol=1e-5)
    moved = judged(config, merging(params, half, np.arange(16) / 16))
    assert np.abs(moved - wanted).max() > 1e-2


def test_merging_reads_the_first_image_first():
    config = config_of(0)
    params = tiny.init(config, 3, "nlvr")
    for number, fixed in enumerate((FIRST, SECOND)):
        halves = [np.zeros((16, 16)), np.zeros((16, 16))]
        halves[number] = np.eye(16)
        only = merging(params, np.concatenate(halves))
        other = tiny.images(3, seed=9)
        pair = (fixed, other) if number == 0 else (other, fixed)
        np.testing.assert_allclose(judged(config, only, *pair), judged(config, only), atol=1e-5)
        assert np.abs(judged(config, only, other, other) - judged(config, only)).max() > 1e-2


def test_a_statement_is_judged_alone_as_in_a_batch_and_pads_do_not_matter(params):
    wanted = judged(CONFIG, params)
    assert not MASK.all()
    for row in range(3):
        at = slice(row, row + 1)
        ids = np.pad(np.where(MASK, IDS, 11)[at], ((0, 0), (0, 2)), constant_values=13)
        mask = np.pad(MASK[at], ((0, 0), (0, 2)))
        alone = judged(CONFIG, params, FIRST[at], SECOND[at], ids, mask)
        np.testing.assert_allclose(alone, wanted[at], atol=1e-5)


@pytest.mark.slow
def test_remat_changes_no_number(params):
    def loss(params, config):
        train = {"train": True, "rngs": {"dropout": jax.random.key(4)}}
        call = functools.partial(nn.Nlvr(config).apply, {"params": params})
        tokens = [call(x, method="encode_image", **train) for x in (FIRST, SECOND)]
        contexts = call(*tokens, method="image_contexts")
        logits = call(IDS, MASK, contexts, method="logits", **train)
        return -jax.nn.log_softmax(logits)[:, 1].mean()

    valued = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (plain, wanted), (loss, found) = (
        valued(
            params, tiny.config(med={"first_learned_merge_layer": 1, "dropout": 0.1}, remat=remat)
        )
        for remat in ("none", "full")
    )
    for name in ("merge_kernel", "merge_bias"):
        assert np.abs(wanted["med"]["layers"][name]).max() > 0
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    for want, got in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
