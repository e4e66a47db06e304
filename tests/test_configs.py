"""Model configurations: published sizes, messages, and the way through JSON."""

import json
import math

import jax
import pytest
import tiny

from blip_jax import nn
from blip_jax.runtime.config import from_json, to_json
from blip_jax.runtime.errors import UserError


def shapes(config):
    return jax.eval_shape(lambda key: nn.init(config, key), jax.random.key(0))


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def dense(inputs, outputs):
    return inputs * outputs + outputs


def vit_count(width, depth, size=224, patch=16):
    block = 2 * 2 * width + dense(width, 3 * width) + dense(width, width)
    block += dense(width, 4 * width) + dense(4 * width, width)
    tokens = (size // patch) ** 2 + 1
    return dense(patch * patch * 3, width) + width + tokens * width + depth * block + 2 * width


def med_counts(context, vocab=30524, width=768, depth=12, mlp=3072):
    attention = 4 * dense(width, width) + 2 * width
    ffn = dense(width, mlp) + dense(mlp, width) + 2 * width
    cross = 2 * dense(width, width) + 2 * dense(context, width) + 2 * width
    return {
        "embeddings": (vocab + 512 + 2) * width,
        "self_attention": depth * attention,
        "cross_attention": depth * cross,
        "ffn": depth * ffn,
        "lm_head": dense(width, width) + 2 * width + vocab,
    }


def test_formulas_give_the_published_counts():
    # timm's vit_base_patch16_224 and vit_large_patch16_224 without their classifiers.
    assert vit_count(768, 12) == 85_798_656 and vit_count(1024, 24) == 303_301_632
    # bert-base-uncased without pooler and token types: 109,482,240 - 590,592 - 1,536.
    parts = med_counts(768, vocab=30522)
    assert parts["embeddings"] + parts["self_attention"] + parts["ffn"] == 108_890_112


@pytest.mark.parametrize(("preset", "width", "depth"), [("base", 768, 12), ("large", 1024, 24)])
def test_real_sizes_are_blips(preset, width, depth):
    params = shapes(nn.preset(preset))
    assert count(params["vit"]) == vit_count(width, depth)
    parts = med_counts(width)
    # The decoder's own self-attention comes on top of the encoder's.
    assert count(params["med"]) == sum(parts.values()) + parts["self_attention"]
    heads = 2 * dense(width, 256) if width == 768 else dense(width, 256) + dense(768, 256)
    rest = {k: v for k, v in params.items() if k not in ("vit", "med")}
    assert count(rest) == heads + dense(768, 2) + 1
    momentum = nn.momentum_params(params)
    kept = sum(v for k, v in parts.items() if k != "lm_head")
    assert count(momentum) == vit_count(width, depth) + kept + heads


@pytest.mark.parametrize(
    ("layout", "twice"),
    [
        ("all", []),
        ("all_but_cross_attention", ["cross_attention"]),
        ("all_but_self_attention", ["self_attention"]),
        ("none", ["embeddings", "self_attention", "cross_attention", "ffn"]),
    ],
)
def test_sharing_layouts_have_the_sizes_of_table_3(layout, twice):
    params = shapes(nn.preset("base", med={"sharing": layout}))
    parts = med_counts(768)
    assert count(params["med"]) == sum(parts.values()) + sum(parts[part] for part in twice)


def test_image_size_gives_the_positions():
    params = shapes(nn.preset("base", vit={"image_size": 384}))
    assert params["vit"]["position"].shape == (1, 577, 768)


def test_special_tokens_are_berts_two_next():
    med = nn.preset("base").med
    assert (med.dec_token, med.enc_token) == (30522, 30523)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: nn.preset("huge"), "huge"),
        (lambda: nn.preset("base", image=384), "'image'"),
        (lambda: nn.preset("base", vit={"dept": 3}), r"no field 'vit\.dept'; did you mean"),
        (lambda: nn.preset("base", med={"sharing": "some"}), "sharing is 'some'"),
        (lambda: nn.preset("base", remat="dot"), "remat is 'dot'"),
        (lambda: nn.preset("base", med={"heads": 7}), r"med\.width 768 .* 7 heads"),
        (lambda: nn.preset("base", vit={"heads": 5}), r"vit\.width 768 .* 5 heads"),
        (lambda: nn.preset("base", quirks=["cls"]), "unknown quirk 'cls'; supported: cls_for_enc"),
        (lambda: nn.preset("base", vit={"image_size": 225}), "image_size 225"),
        (lambda: nn.preset("base", vit={"depth": 10**12}), r"vit\.depth is 10{12}; .* 1 to 1000"),
        (lambda: from_json(nn.BlipConfig, {"vit": {"dept": 3}}), "'vit.dept'"),
        (lambda: from_json(nn.BlipConfig, {"embedding": 3}), "'embedding'"),
    ],
)
def test_a_wrong_config_names_its_field(make, named):
    with pytest.raises(UserError, match=named):
        make()


@pytest.mark.parametrize(
    "config",
    [
        nn.preset("base"),
        nn.preset("large", med={"sharing": "none"}, remat="dots"),
        nn.preset("tiny", vit={"drop_path": 0.1}, dtype="bfloat16"),
        tiny.config(),
    ],
)
def test_a_config_goes_through_json_and_back(config):
    assert from_json(nn.BlipConfig, json.loads(json.dumps(to_json(config)))) == config
