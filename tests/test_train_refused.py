"""Training configs that are refused before a step, each in one line."""

import dataclasses

import pytest
import training_fixture
from training_fixture import RECIPES

from blip_jax.data.tokenizer import TokenIds
from blip_jax.runtime.config import replace
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
