"""Model types: what each has, how many parameters at the published sizes, and where."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from blip_jax import nn
from blip_jax.runtime.errors import UserError
from blip_jax.train.mesh import make_mesh
from blip_jax.train.sharding import path_name, shardings, spec_of

HEADS = {"vision_proj", "text_proj", "itm_head", "temperature"}
# Parts of the text transformer.
ENCODER = {"encoder_self_attention", "encoder_self_attention_norm"}
DECODER = {"decoder_self_attention", "decoder_self_attention_norm"}
CROSS = {"cross_attention", "cross_attention_norm"}
FFN = {"ffn_in", "ffn_out", "ffn_norm"}
TEXT = {"embeddings", "layers", "cross_attention_context"}
# model_type: (top of the tree beside vit and med, med, its layers).
WANTED = {
    "pretrain": (HEADS, TEXT | {"lm_head"}, ENCODER | DECODER | CROSS | FFN),
    "captioner": (set(), TEXT | {"lm_head"}, DECODER | CROSS | FFN),
    "retrieval": (HEADS, TEXT, ENCODER | CROSS | FFN),
    "features": (set(), TEXT, ENCODER | CROSS | FFN),
    "dialog": ({"itm_head"}, TEXT, ENCODER | CROSS | FFN),
    "nlvr": (
        {"classifier_in", "classifier_out"},
        TEXT | {"cross_attention_2_context"},
        ENCODER | CROSS | FFN | {"cross_attention_2"},
    ),
    "aligned": (
        {"pooler", "vision_proj", "text_proj", "logit_scale"},
        TEXT,
        ENCODER | CROSS | FFN,
    ),
}


def config_of(model_type, preset="tiny", **changes):
    med = {"sharing": "none"} if model_type == "vqa" else {}
    if preset == "tiny":
        return tiny.config(med=med, **changes)
    return nn.preset(preset, med=med, **changes)


@functools.cache
def shapes(model_type, preset="tiny", size=16):
    vit = {"image_size": size} | ({"patch_size": 8} if preset == "tiny" else {})
    return nn.param_shapes(config_of(model_type, preset, vit=vit), model_type)


def paths(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_all_kinds_are_here():
    assert {*WANTED, "vqa"} == set(nn.MODEL_TYPES)


@pytest.mark.parametrize("model_type", WANTED)
def test_a_kind_has_its_parts_and_no_others(model_type):
    top, med, layer = WANTED[model_type]
    params = shapes(model_type)
    assert set(params) == {"vit", "med"} | top
    assert set(params["med"]) == med
    assert set(params["med"]["layers"]["layer"]) == layer


def test_question_encoder_and_answer_decoder_have_nothing_in_common():
    params = shapes("vqa")
    parts = TEXT - {"layers"}
    med = {f"{role}_{part}" for role in ("encoder", "decoder") for part in parts}
    assert set(params) == {"vit", "med"} and set(params["med"]) == med | {"layers", "lm_head"}
    layer = {name.removeprefix("encoder_") for name in ENCODER} | CROSS | FFN
    wanted = {f"{role}_{part}" for role in ("encoder", "decoder") for part in layer}
    assert set(params["med"]["layers"]["layer"]) == wanted


def test_parts_of_pretraining_make_up_all_of_it():
    whole = paths(shapes("pretrain"))
    parts = {
        model_type: paths(shapes(model_type))
        for model_type in ("captioner", "retrieval", "features")
    }
    for part in parts.values():
        assert part.items() <= whole.items()
    assert parts["features"].items() < parts["retrieval"].items()
    assert parts["captioner"] | parts["retrieval"] == whole


@pytest.mark.parametrize("model_type", nn.MODEL_TYPES)
def test_shapes_are_those_of_init(model_type):
    made = jax.jit(nn.init, static_argnums=(0, 2))(
        config_of(model_type), jax.random.key(1), model_type
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, np.dtype("float32")), shapes(model_type)
    )
    start = {"temperature": 0.07, "logit_scale": math.log(1 / 0.07)}
    for path, leaf in paths(made).items():
        name = path.rpartition("/")[2]
        if name.endswith(("kernel", "word")):  # drawn: not all the same, none outlandish
            assert 0 < np.std(leaf) < 1, path
        if name in start:
            np.testing.assert_allclose(leaf, start[name], rtol=1e-4)


def test_an_unknown_kind_is_named():
    for call in (nn.network, nn.param_shapes):
        with pytest.raises(UserError, match="unknown model type 'captioning'; known: pretrain,"):
            call(tiny.config(), "captioning")


@pytest.mark.parametrize("layout", ["all", "all_but_cross_attention", "all_but_self_attention"])
def test_vqa_shares_nothing(layout):
    with pytest.raises(UserError, match=f"^med.sharing is '{layout}'; .* make it \"none\"$"):
        nn.network(tiny.config(med={"sharing": layout}), "vqa")


# Counts at the published sizes. The terms, of a text transformer 768 wide and 12 deep:
EMBEDDINGS = (30524 + 512 + 2) * 768
ATTENTION = 12 * (4 * (768 * 768 + 768) + 2 * 768)
FEED = 12 * (768 * 3072 + 3072 + 3072 * 768 + 768 + 2 * 768)
LM = 768 * 768 + 768 + 2 * 768 + 30524
LARGE = 12 * 2 * (1024 - 768) * 768  # cross-attention's keys and values from a ViT-L, on top
VIT = {"base": 85_798_656, "large": 303_301_632}  # at 224 pixels, timm's without classifiers
MORE = {"base": (577 - 197) * 768, "large": (577 - 197) * 1024}  # positions at 384 pixels
ENCODED = EMBEDDINGS + 2 * ATTENTION + FEED
PROJECTION = {"base": 2 * (768 * 256 + 256), "large": 768 * 256 + 1024 * 256 + 2 * 256}
# Of NLVR2: a second cross-attention (but no second norm), six merges, two dense layers.
TWO = ATTENTION - 12 * 2 * 768 + 6 * (1536 * 768 + 768) + 768 * 768 + 768 + 2 * 768 + 2
TEXT_COUNT = {
    "pretrain": ENCODED + ATTENTION + LM,
    "captioner": ENCODED + LM,
    "retrieval": ENCODED,
    "features": ENCODED,
    "dialog": ENCODED + 768 * 2 + 2,
    "vqa": 2 * ENCODED + LM,
    "nlvr": ENCODED + TWO,
    "aligned": ENCODED + 768 * 768 + 768,
}


@pytest.mark.parametrize("preset", ["base", "large"])
@pytest.mark.parametrize("model_type", nn.MODEL_TYPES)
def test_real_sizes(model_type, preset):
    wanted = VIT[preset] + MORE[preset] + TEXT_COUNT[model_type]
    if preset == "large":
        wanted += 2 * LARGE if model_type == "nlvr" else LARGE
    if model_type in ("pretrain", "retrieval"):
        wanted += PROJECTION[preset] + 768 * 2 + 2 + 1
    if model_type == "aligned":
        wanted += PROJECTION[preset] - 2 * 256 + 1
    assert count(shapes(model_type, preset, 384)) == wanted


@pytest.mark.parametrize(
    ("model_type", "preset", "published", "extra"),
    [
        # model.safetensors of Salesforce's repositories at Hugging Face. Its text decoders count
        # the word embedding again as the LM head's kernel.
        ("captioner", "base", 247_414_076, 30524 * 768),
        ("captioner", "large", 469_732_924, 30524 * 768),
        ("vqa", "base", 384_672_572, 30524 * 768),
        ("retrieval", "base", 223_744_258, -1),  # it has no temperature
    ],
)
def test_published_sizes(model_type, preset, published, extra):
    assert count(shapes(model_type, preset, 384)) == published - extra


# Where they lie on a mesh.


@pytest.mark.parametrize("preset", ["base", "large"])
@pytest.mark.parametrize("model_type", nn.MODEL_TYPES)
def test_every_parameter_has_a_rule_and_what_is_large_is_cut(model_type, preset):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    params = {"params": shapes(model_type, preset, 384)}
    placed = paths(shardings(params, mesh))
    for path, leaf in paths(params).items():
        piece = math.prod(placed[path].shard_shape(leaf.shape))
        if leaf.size > 2**20:
            assert leaf.size == piece * 4, path


def test_specs_of_what_only_some_kinds_have():
    P = jax.sharding.PartitionSpec
    assert spec_of("params/med/layers/merge_kernel") == P(None, "fsdp", "tensor")
    assert spec_of("params/med/layers/merge_bias") == P()
    assert spec_of("params/med/cross_attention_2_context/key_kernel")[1:3] == ("fsdp", "tensor")
    assert spec_of("params/med/layers/layer/cross_attention_2/out/kernel")[1] == "tensor"
    assert spec_of("params/pooler/kernel") == spec_of("params/classifier_in/kernel")
    assert spec_of("params/logit_scale") == spec_of("params/classifier_out/kernel") == P()


# Half precision, for all that is no `Blip`.


@pytest.mark.parametrize("model_type", ["vqa", "nlvr", "aligned"])
def test_bfloat16_is_near_float32(model_type):
    ids, mask = tiny.texts(3)
    params = tiny.init(config_of(model_type), 1, model_type)

    def outputs(dtype):
        network = nn.network(config_of(model_type, dtype=dtype), model_type)
        run = jax.jit(functools.partial(network.apply, method=nn.MODEL_TYPES[model_type].init_path))
        return jax.tree.leaves(run({"params": params}, tiny.images(3), ids, mask))

    if model_type == "aligned":  # its states are in the compute dtype, all else is float32
        assert [x.dtype for x in outputs("bfloat16")][-1] == jnp.bfloat16
    for found, wanted in zip(outputs("bfloat16"), outputs("float32"), strict=True):
        # Some dozen roundings to 8 bits.
        np.testing.assert_allclose(
            np.float32(found), wanted, atol=0.06 * np.abs(wanted).max(), rtol=0
        )
