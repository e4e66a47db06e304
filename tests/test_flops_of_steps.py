"""FLOPs of whole training steps: the formula against the products of the traced program."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny

from blip_jax.data.tokenizer import TokenIds
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pairs import ItcConfig, ItmConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step

BATCH = 4


def traced_flops(task) -> int:
    """Returns the FLOPs of the products in the step of `task`, before XLA simplifies it."""
    optimizer = optax.set_to_zero()

    def state(key):
        params = task.init_params(key)
        return TrainState(
            jnp.int32(0), params, task.init_extra(params, key), optimizer.init(params)
        )

    key = jax.random.key(0)
    arguments = jax.eval_shape(state, key), task.batch_spec(BATCH), key
    return product_flops(jax.make_jaxpr(make_step(task, optimizer))(*arguments).jaxpr)


def product_flops(jaxpr) -> int:
    """Returns 2 m k n for each product of [m, k] by [k, n], those in loops once an iteration."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, (result,) = equation.invars[0].aval.shape, equation.outvars
            total += 2 * math.prod(result.aval.shape) * math.prod(left[i] for i in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = [getattr(x, "jaxpr", x) for x in jax.tree.leaves(equation.params)]
        total += times * sum(product_flops(x) for x in inner if hasattr(x, "eqns"))
    return total


ITC, ITM = ItcConfig(queue_size=12), ItmConfig(group_size=4)


@pytest.mark.parametrize(
    ("config", "sharing"),
    [
        (PretrainingConfig(max_length=7, itc=ITC, itm=ITM), "all_but_self_attention"),
        (PretrainingConfig(max_length=7, itc=ITC, itm=ITM), "none"),
        (PretrainingConfig(max_length=7, itc=ITC, itm=None, lm=None), "none"),
        (RetrievalConfig(max_length=7, itc=ITC, itm=ITM), "none"),
        (CaptioningConfig(max_length=7), "none"),
        (VqaConfig(max_length=7, max_answer_length=6, max_answers=2), "none"),
        (NlvrConfig(max_length=7), "none"),
        (VisdialConfig(max_length=7), "none"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_formula_counts_every_product_of_the_step(config, sharing):
    task = config.make(tiny.config(med={"sharing": sharing}), TokenIds())
    assert traced_flops(task) == pytest.approx(task.flops(BATCH), rel=1e-3)
