"""What a training starts from: another run, published encoders, and what does not fit."""

import dataclasses
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
import training_fixture
from flax.traverse_util import flatten_dict
from training_fixture import reports, tiny_run

from blip_jax import nn
from blip_jax.checkpoints import original, rules, tensors
from blip_jax.checkpoints.sources import read
from blip_jax.checkpoints.workdir import load_state_items, save_model
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.overrides import override
from blip_jax.tasks.starting_params import select
from blip_jax.train import loop
from blip_jax.train.setup import TrainSetup

world = training_fixture.world
config = training_fixture.config
whole = training_fixture.whole


@pytest.mark.parametrize("task", ["captioning", "retrieval"])
def test_a_run_starts_from_another_workdir(world, whole, task, tmp_path):
    config = tiny_run(world, task, **{"init.run": str(whole[0])})
    state = TrainSetup(config).init_state()
    trained = whole[1].params
    model = TrainSetup(config).config.model
    shapes = nn.param_shapes(model, config.task.model_type)
    assert jax.tree.structure(state.params) == jax.tree.structure(shapes)
    kept = select(trained, state.params)
    for got, want in zip(jax.tree.leaves(state.params), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(got, want)
    assert state.step == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    if task == "captioning":
        assert state.extra == {}
        config = replace(config, steps=2)
        resumed = loop.train(config, str(tmp_path))
        assert resumed.step == 2 and len(reports(tmp_path)) == 2
        assert "itc" not in reports(tmp_path)[0]
        # And a state without momentum weights comes back from its checkpoint.
        again = loop.train(config, str(tmp_path))
        for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(resumed), strict=True):
            np.testing.assert_array_equal(got, want)
    else:
        slow = jax.tree.leaves(state.extra["momentum"]["vit"])
        for got, want in zip(slow, jax.tree.leaves(trained["vit"]), strict=True):
            np.testing.assert_array_equal(got, want)


def test_another_tokenizer_than_that_of_the_first_run_is_named(world, whole, tmp_path):
    shutil.copytree(world / "tokenizer", tmp_path / "other")
    words = (tmp_path / "other" / "vocab.txt").read_text().splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    (tmp_path / "other" / "vocab.txt").write_text("\n".join(words) + "\n")
    for file in (tmp_path / "other").glob("tokenizer.json"):
        file.unlink()
    changes = {"init.run": str(whole[0]), "tokenizer": str(tmp_path / "other")}
    config = tiny_run(world, "captioning", **changes)
    with pytest.raises(UserError, match="another tokenizer than config.tokenizer; give --config.t"):
        TrainSetup(config).init_state()


def test_a_run_starts_without_a_temperature(world, whole, tmp_path):
    """Hugging Face's folders have none."""
    items, metadata = load_state_items(str(whole[0]), ("params",))
    params = {name: x for name, x in items["params"].items() if name != "temperature"}
    save_model(str(tmp_path / "first"), params, {}, metadata)
    shutil.copytree(world / "tokenizer", tmp_path / "first" / "tokenizer")
    setup = TrainSetup(tiny_run(world, "retrieval", **{"init.run": str(tmp_path / "first")}))
    assert setup.init_state().params["temperature"] == pytest.approx(0.07)


def test_a_run_starts_from_a_vit(world, whole, tmp_path):
    trained = whole[1].params
    vit = rules.save(trained, original.vision(""))
    tensors.write(vit, str(tmp_path / "vit.safetensors"), {})
    config = tiny_run(world, **{"init.vit": str(tmp_path / "vit.safetensors")})
    state = TrainSetup(config).init_state()
    fresh = TrainSetup(tiny_run(world)).init_state()
    for path, value in flatten_dict(state.params, sep="/").items():
        source = trained if path.startswith("vit/") else fresh.params
        np.testing.assert_array_equal(value, flatten_dict(source, sep="/")[path], path)
    pair = jax.tree.leaves(state.extra["momentum"]["vit"]), jax.tree.leaves(trained["vit"])
    for got, want in zip(*pair, strict=True):
        np.testing.assert_array_equal(got, want)


def test_two_beginnings_are_refused(world, whole):
    with pytest.raises(UserError, match="init.run and .*init.text_encoder are both given"):
        tiny_run(world, **{"init.run": str(whole[0]), "init.text_encoder": "bert"})


def test_init_from_another_model_is_named(config, whole, tmp_path):
    """All flags that are missing are in one message, and with them the run starts."""
    other = {"init.run": str(whole[0]), "model.med.mlp_dim": 64, "model.vit.depth": 3}
    other |= {"model.embed_dim": 24, "model.vit.eps": 1e-5}  # eps may differ
    config = replace(config, **other)
    with pytest.raises(UserError, match="another network than the config; give ") as found:
        loop.train(config, str(tmp_path))
    flags = str(found.value).partition("; give ")[2].split()
    assert [flag.partition("=")[0] for flag in flags] == [
        "--config.model.vit.depth", "--config.model.med.mlp_dim", "--config.model.embed_dim",
    ]  # fmt: skip
    setup = TrainSetup(override(config, flags))
    want = load_state_items(str(whole[0]), ("params",))[0]["params"]
    found = setup.init_state().params
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, want)


def test_init_with_another_vocabulary_is_named(world, whole, tmp_path):
    shutil.copytree(world / "tokenizer", tmp_path / "other")
    with open(tmp_path / "other" / "vocab.txt", "a") as file:
        file.write("unheard\n")
    for file in (tmp_path / "other").glob("tokenizer.json"):
        file.unlink()
    changes = {"init.run": str(whole[0]), "tokenizer": str(tmp_path / "other")}
    setup = TrainSetup(tiny_run(world, "captioning", **changes))
    checkpoint = read(str(whole[0]), training_state=False)
    unnamed = dataclasses.replace(checkpoint, tokenizer="bert-base-uncased")
    with mock.patch("blip_jax.train.init_params.read", return_value=unnamed):
        with pytest.raises(UserError, match="a vocabulary of .* tokens, config.tokenizer one of"):
            setup.init_state()
