"""What a training step sends between devices, read from the compiled program."""

import jax
import pytest
import tiny

from blip_jax.data.tokenizer import TokenIds
from blip_jax.tasks.pairs import ItcConfig, ItmConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.train.aot.hlo import HloModule
from blip_jax.train.config import TrainConfig
from blip_jax.train.mesh import batch_sharding
from blip_jax.train.setup import TrainSetup

DEVICES, PAIRS, LENGTH = 8, 32, 12


@pytest.fixture(scope="module")
def step():
    """A pre-training with a queue much longer than the batch, and its step as compiled."""
    task = PretrainingConfig(
        max_length=LENGTH,
        itc=ItcConfig(queue_size=4096),
        itm=ItmConfig(group_size=PAIRS // DEVICES),
    )
    model = tiny.config()
    ids = TokenIds(vocab_size=model.med.vocab_size)
    config = TrainConfig(task=task, model=model, batch_size=PAIRS)
    setup = TrainSetup(config, tokenizer=ids)
    placed = batch_sharding(setup.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed)
        for name, x in setup.task.batch_spec(PAIRS).items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = setup.functions.step.lower(setup.functions.state, batch, key)
    return setup, HloModule(lowered.compile().as_text())


def test_momentum_features_and_divided_weights_alone_are_gathered(step):
    """Once, whatever the queue's length; each device receives those of the seven others."""
    setup, compiled = step
    a_pair = 2 * 4 * setup.config.model.embed_dim + 1  # two features, and whether it counts
    others = PAIRS // DEVICES * (DEVICES - 1)
    found = compiled.collectives()
    state = setup.functions.state
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.extra))
    divided = [
        leaf.size * leaf.dtype.itemsize * (DEVICES - 1) // DEVICES
        for path, leaf in leaves
        if not leaf.sharding.is_fully_replicated and not is_unused(path)
    ]
    assert found.pop("all-gather") == others * a_pair + sum(divided)
    assert set(found) == {"all-reduce"}


def is_unused(path: tuple) -> bool:
    """Returns whether no pass reads an array, as the momentum encoder's cross-attention."""
    name = jax.tree_util.keystr(path)
    return "momentum" in name and "cross_attention" in name


def test_gradients_travel_once_for_each_pass(step):
    """Those of the ViT once; of the text transformer, which runs three times, up to thrice."""
    setup, compiled = step
    sizes = {name: tree_size(part) for name, part in setup.functions.state.params.items()}
    rest = sum(sizes.values()) - sizes["med"]
    once = 2 * 4 * (DEVICES - 1) / DEVICES
    found = compiled.collectives()["all-reduce"]
    assert once * (rest + sizes["med"]) <= found <= once * (rest + 3 * sizes["med"])


def tree_size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
