"""What a training step sends between devices, read from the compiled program."""

import jax
import numpy as np
import pytest
import tiny

from blip_jax.tasks.objectives import Objectives
from blip_jax.train import config
from blip_jax.train.aot.hlo import HloModule
from blip_jax.train.mesh import batch_sharding, make_mesh
from blip_jax.train.setup import program

DEVICES, PAIRS, LENGTH = 8, 32, 12


@pytest.fixture(scope="module")
def step():
    """A pre-training's program with a queue long beside the batch, and its step as compiled."""
    objectives = Objectives(("itc", "itm", "lm"), queue=4096, negative_group=PAIRS // DEVICES)
    mesh = make_mesh({"data": DEVICES})
    settings = config.defaults("pretrain").optimizer
    made = program(tiny.config(), "pretrain", objectives, settings, 1, mesh)
    size = made.task.config.vit.image_size
    shapes = {
        "image": ((PAIRS, size, size, 3), np.uint8),
        "ids": ((PAIRS, LENGTH), np.int32),
        "mask": ((PAIRS, LENGTH), bool),
        "valid": ((PAIRS,), bool),
    }
    placed = batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(*x, sharding=placed) for name, x in shapes.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return made, HloModule(made.step.lower(made.shapes, batch, key).compile().as_text())


def test_of_the_batch_momentum_features_alone_are_gathered(step):
    """Once, whatever the queue's length; each device receives those of the seven others."""
    made, compiled = step
    a_pair = 2 * 4 * made.task.config.embed_dim + 1  # two features, and whether it counts
    others = PAIRS // DEVICES * (DEVICES - 1)
    found = compiled.collectives()
    assert found.pop("all-gather") == others * a_pair
    assert set(found) == {"all-reduce"}


def test_gradients_travel_once_for_each_pass(step):
    """Those of the ViT once; of the text transformer, which runs three times, up to thrice."""
    made, compiled = step
    sizes = {name: tree_size(part) for name, part in made.shapes.params.items()}
    rest = sum(sizes.values()) - sizes["med"]
    once = 2 * 4 * (DEVICES - 1) / DEVICES
    found = compiled.collectives()["all-reduce"]
    assert once * (rest + sizes["med"]) <= found <= once * (rest + 3 * sizes["med"])


def tree_size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
