"""Training configs that are refused before a step, each in one line."""

import dataclasses

import jax
import numpy as np
import pytest
import training_fixture
from training_fixture import RECIPES

from blip_jax.checkpoints.workdir import Metadata, save_model
from blip_jax.data.tokenizer import TokenIds
from blip_jax.runtime.config import replace, to_json
from blip_jax.runtime.errors import UserError
from blip_jax.train import loop
from blip_jax.train.mesh import check_batch, make_mesh

world = training_fixture.world
config = training_fixture.config


def test_init_from_a_missing_workdir_is_named(config, tmp_path):
    config = replace(config, init={"run": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere does not exist"):
        loop.train(config, str(tmp_path / "run"))


def test_a_missing_mixture_is_named(config, tmp_path):
    config = replace(config, data={"mixture": str(tmp_path / "mixtures" / "none.json")})
    with pytest.raises(UserError, match=r"mixture file .*none\.json does not exist"):
        loop.train(config, str(tmp_path))


def test_texts_longer_than_the_model_reads_are_refused(config, tmp_path):
    config = replace(config, task={"max_length": 17})
    with pytest.raises(UserError, match=r"max_length is 17, .* 16"):
        loop.train(config, str(tmp_path))


def test_another_embed_dim_than_that_of_the_first_run_is_named(config, world, tmp_path):
    words = len((world / "tokenizer" / "vocab.txt").read_text().splitlines()) + 2  # [DEC], [ENC]
    other = replace(config.model, embed_dim=16, **{"med.vocab_size": words})
    task = config.task.make(other, TokenIds())
    shapes = jax.eval_shape(task.init_params, jax.random.key(0))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    metadata = Metadata(config.task.model_type, to_json(other), "", 12, config.tokenizer)
    save_model(str(tmp_path / "first"), params, {}, metadata)
    config = replace(config, init={"run": str(tmp_path / "first")})
    with pytest.raises(
        UserError, match=r"of another width .*; give --config\.model\.embed_dim=16$"
    ):
        loop.train(config, str(tmp_path / "second"))


@pytest.mark.parametrize(
    ("field", "value", "least"),
    [
        ("checkpoints.keep", 0, 1), ("checkpoints.every", 0, 1), ("checkpoints.keep_every", -1, 0),
        ("eval.every", -1, 0), ("eval.limit", -1, 0), ("data.num_threads", -1, 0),
        ("task.max_length", 0, 1), ("task.itc.queue_size", -1, 0), ("task.itm.group_size", 0, 1),
        ("batch_size", 0, 1), ("log_every", 0, 1), ("optimizer.weight_decay", -1, 0),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(config, field, value, least):
    with pytest.raises(UserError, match=rf"^{field} is {value}; it must be {least} or more$"):
        replace(config, **{field: value})


@pytest.mark.parametrize(
    "field",
    ["task.lm.label_smoothing", "task.itc.momentum", "task.itc.alpha", "task.itm.perturbed_share",
     "data.augment.min_crop_area", "optimizer.b1"],
)  # fmt: skip
def test_shares_are_at_most_one(config, field):
    with pytest.raises(UserError, match=rf"^{field} is 2.* (from 0 to 1|in \[0, 1\))$"):
        replace(config, **{field: 2})


def test_a_profile_of_steps_that_there_are_not_is_named(config):
    with pytest.raises(UserError, match="profile is '6:9', but the run has 6 steps"):
        replace(config, profile="6:9")


def test_a_length_without_room_for_text_is_named(config, tmp_path):
    config = replace(config, task={"max_length": 4, "lm": {"prompt": "a picture of "}})
    with pytest.raises(UserError, match="task.max_length is 4; with task.lm.prompt 'a picture of"):
        loop.train(config, str(tmp_path / "run"))


def test_an_unknown_field_is_named_with_its_neighbour(config):
    with pytest.raises(UserError, match="'batchsize'.*did you mean 'batch_size'"):
        replace(config, batchsize=3)
    with pytest.raises(UserError, match="'task.itc.momentun'.*did you mean 'momentum'"):
        replace(config, **{"task.itc.momentun": 0.5})


@pytest.mark.parametrize("task", RECIPES)
def test_default_recipes_can_be_split_over_eight_devices(task):
    config = RECIPES[task]()
    made = config.task.make(config.model, TokenIds())
    mesh = make_mesh(dataclasses.asdict(config.mesh))
    check_batch(config.batch_size, config.accumulate_steps, made.group_size, mesh)
