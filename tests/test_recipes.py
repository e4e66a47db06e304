"""The recipes: every variant of the config files, its values those of the paper and its code."""

import types

import jax
import numpy as np
import pytest

from blip_jax import nn
from blip_jax.checkpoints import Checkpoint, write
from blip_jax.cli import config_files
from blip_jax.data.tokenizer import TokenIds
from blip_jax.runtime.config import replace, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.train.init_params import load_init_params
from blip_jax.train.mesh import check_batch

# Of the paper's section 5 and configs/*.yaml: image size, batch, steps of an epoch, epochs, rate.
VALUES = {
    "captioning": (384, 256, 2213, 5, 1e-5),
    "captioning:vit_l": (384, 256, 2213, 5, 2e-6),
    "retrieval": (384, 256, 2213, 6, 1e-5),
    "retrieval:vit_l": (384, 256, 2213, 6, 5e-6),
    "retrieval:flickr30k": (384, 256, 566, 6, 1e-5),
    "retrieval:vit_l,flickr30k": (384, 256, 566, 6, 5e-6),
    "vqa": (480, 256, 5406, 10, 2e-5),
    "vqa:vit_l": (480, 256, 5406, 10, 1e-5),
    "vqa:vqa_v2": (480, 256, 2570, 10, 2e-5),
    "vqa:vqa_v2,vit_l": (480, 256, 2570, 10, 1e-5),
    "nlvr": (384, 256, 337, 15, 3e-5),
    "nlvr:vit_l": (384, 256, 337, 15, 1.5e-5),
    "visdial": (384, 240, 513, 20, 2e-5),
    "visdial:vit_l": (384, 240, 513, 20, 1e-5),
}

NARROW = {
    "vit": {"width": 8, "depth": 1, "heads": 2},
    "med": {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "vocab_size": 40, "max_length": 64},
    "embed_dim": 8,
}


def load(spec):
    return config_files.load(spec)[0]


@pytest.mark.parametrize("spec", VALUES)
def test_a_recipe_has_the_papers_values(spec):
    config = load(spec)
    size, batch, epoch, epochs, rate = VALUES[spec]
    assert (config.model.vit.image_size, config.batch_size) == (size, batch)
    schedule = config.optimizer.schedule
    assert (schedule.peak_lr, schedule.min_lr, schedule.steps_per_epoch) == (rate, 0, epoch)
    assert config.steps == epochs * epoch
    assert config.optimizer.weight_decay == 0.05 and config.data.augment.min_crop_area == 0.5
    large = "vit_l" in spec
    vit = config.model.vit
    assert (vit.width, vit.depth) == ((1024, 24) if large else (768, 12))
    assert vit.drop_path == (0.1 if large or spec.startswith(("vqa", "nlvr")) else 0)
    # Layers that the original recomputes: of ViT-L, and in retrieval.
    recomputes = large or spec.startswith("retrieval")
    assert config.model.remat == ("full" if recomputes else "none")
    task = config.task.make(config.model, TokenIds())
    mesh = types.SimpleNamespace(shape={"data": 8, "fsdp": 1})
    check_batch(config.batch_size, config.accumulate_steps, task.group_size, mesh)


@pytest.mark.parametrize(
    ("spec", "group", "rerank_k", "ramp"),
    [
        ("retrieval:coco", 256, 256, 2213),  # negative_all_rank
        ("retrieval:flickr30k", 32, 128, 566),
        ("retrieval:flickr30k,vit_l", 16, 128, 566),
    ],
)
def test_retrieval_differs_by_dataset(spec, group, rerank_k, ramp):
    task = load(spec).task
    assert (task.itm.group_size, task.rerank_k) == (group, rerank_k)
    assert (task.itc.alpha, task.itc.alpha_warmup_steps, task.itc.queue_size) == (0.4, ramp, 57_600)
    assert (task.itm.floor, task.itc.positives, task.max_length) == (0, "image", 35)


def test_the_datasets_of_vqa_differ_in_the_length_alone():
    both, alone = to_json(load("vqa")), to_json(load("vqa:vqa_v2"))
    schedule = both["optimizer"]["schedule"] | {"steps_per_epoch": 2570}
    optimizer = both["optimizer"] | {"schedule": schedule}
    assert both | {"steps": 25_700, "optimizer": optimizer} == alone
    assert both["model"]["med"]["sharing"] == "none"


@pytest.mark.parametrize(
    ("variant", "split", "values"),
    [
        ("", "test", {"rerank_k": 128}),
        (":captioning,coco", "test", {"java_metrics": True}),
        (":captioning,nocaps", "val", {"java_metrics": True}),
        (":retrieval", "test", {"rerank_k": 256}),
        (":retrieval,coco", "test", {"rerank_k": 256}),
        (":retrieval,flickr30k", "test", {"rerank_k": 128}),
        (":vqa,vqa_v2", "test", {"rank_k": 128, "num_candidates": 3128}),
        (":nlvr", "test", {}),
        (":nlvr,nlvr2", "test1", {}),
        (":visdial,visdial", "val", {}),
    ],
)
def test_an_evaluation_has_the_papers_values(variant, split, values):
    config = load(f"evaluate{variant}")
    assert config.split == split
    assert {name: getattr(config.task, name) for name in values} == values
    if ":captioning" in variant:
        decoding = config.task.decoding
        assert (decoding.num_beams, decoding.min_length, decoding.max_length) == (3, 5, 20)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("retrieval:flickr", "config retrieval has no variant 'flickr'; did you mean 'flickr30k'?"),
        ("retrieval:coco,", "config retrieval has no variant ''; known: coco, flickr30k, vit_b"),
        ("retrieval:coco,flickr30k", "cannot be both 'coco' and 'flickr30k'; give one of them"),
        ("captioning:nocaps", "config captioning has no variant 'nocaps'; known: vit_b, vit_l"),
        ("vqa:vit_h", "config vqa has no variant 'vit_h'; did you mean 'vit_"),
        ("evaluate:nlvr2", "config evaluate has no variant 'nlvr2'; did you mean 'nlvr'?"),
        ("evaluate:captioning,cocoo", "evaluate:captioning has no variant 'cocoo'; did you mean"),
    ],
)
def test_another_variant_is_refused(spec, message):
    with pytest.raises(UserError) as error:
        load(spec)
    assert message in str(error.value)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A narrow model at 224 pixels, as a file, and its position embedding."""
    config, rng = nn.preset("base", **NARROW), np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(x.dtype), nn.param_shapes(config)
    )
    path = tmp_path_factory.mktemp("pretrained") / "model.safetensors"
    write(Checkpoint("pretrain", config, params), str(path), "original")
    return str(path), params["vit"]["position"]


@pytest.mark.parametrize(("spec", "tokens"), [("captioning", 577), ("vqa", 901), ("nlvr", 577)])
def test_a_pretraining_of_224_pixels_starts_a_larger_run(pretrained, spec, tokens):
    path, position = pretrained
    config = load(spec)
    task = config.task.make(replace(config.model, **NARROW), TokenIds())
    found = load_init_params(path, task, jax.random.key(1))["vit"]["position"]
    assert position.shape == (1, 197, 8) and found.shape == (1, tokens, 8)
    np.testing.assert_array_equal(found[:, 0], position[:, 0])  # [CLS] has no place
    np.testing.assert_allclose(found, nn.resize_position_embedding(position, tokens))
