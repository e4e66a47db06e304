"""FLOPs by formula, against counts by hand and against the products of traced training steps."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny

from blip_jax import nn
from blip_jax.data.tokenizer import TokenIds
from blip_jax.nn import flops
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pairs import ItcConfig, ItmConfig, LmConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.retrieval import RetrievalConfig
from blip_jax.tasks.visdial import VisdialConfig
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step

BATCH = 4

# The formula: `tiny` has N = 5 image tokens (patch 8, 16 pixels), V = W = 16, F = 32, L = 2, E = 8


def test_a_vit_by_hand():
    found = flops.vit(tiny.config().vit)
    qkv, out, mlp = 2 * 5 * 16 * 48, 2 * 5 * 16 * 16, 2 * (2 * 5 * 16 * 64)
    scores = values = 2 * 5 * 5 * 16
    assert found.matmul == 2 * (qkv + out + mlp) == 61_440
    assert found.attention == 2 * (scores + values) == 3_200
    assert found.outside_layers == 2 * 4 * (8 * 8 * 3) * 16 == 24_576
    assert found.forward == 89_216
    # Remat computes the layers again, but for each one's last product: 2 * 5 * 64 * 16 twice.
    assert found.trained("none") == 3 * 89_216
    assert found.trained("dots") == 3 * 89_216 + 1_600
    assert found.trained("full") == 3 * 89_216 + 61_440 + 3_200 - 20_480


def test_texts_by_hand():
    med = tiny.config().med
    alone = flops.text(med, 7)
    assert alone.matmul == 2 * (2 * 7 * 16 * (48 + 16) + 2 * (2 * 7 * 16 * 32)) == 57_344
    assert alone.attention == 2 * (2 * (2 * 7 * 7 * 16)) == 6_272
    grounded = flops.text(med, 7, image_tokens=5)
    assert grounded.matmul - alone.matmul == 2 * (2 * (2 * 7 * 16 * 16)) == 14_336
    assert grounded.attention - alone.attention == 2 * (2 * (2 * 7 * 5 * 16)) == 4_480
    assert flops.image_context(tiny.config()).forward == 2 * 2 * (2 * 5 * 16 * 16) == 10_240
    assert flops.lm_head(med, 7).forward == 2 * 7 * 16 * 16 + 2 * 7 * 16 * 32 == 10_752
    assert flops.heads(tiny.config()).forward == 2 * (2 * 16 * 8) == 512


def test_a_step_by_hand():
    """89,216 an image, 63,616 a text, 82,432 one that reads an image; backward is twice that."""
    config = tiny.config()
    captioning = CaptioningConfig(max_length=7, lm=LmConfig())
    pixels = 24_576  # nothing is derived by them
    captioner = 3 * (89_216 + 82_432 + 10_752 + 10_240) - pixels
    assert captioning.make(config, TokenIds()).flops(4) == 4 * captioner
    every = PretrainingConfig(max_length=7, itc=ItcConfig(queue_size=12))
    teacher = 89_216 + 63_616 + 512
    keys = 2 * 3 * (2 * 8 * (4 + 12))
    context = 10_240  # both passes read one projection
    online = 3 * (89_216 + 63_616 + 512 + 4 * 82_432 + 10_752 + context) - pixels
    found = every.make(config, TokenIds()).flops(4)
    assert found == 4 * (teacher + keys + online)
    apart = tiny.config(med={"sharing": "none"})
    assert every.make(apart, TokenIds()).flops(4) - found == 4 * 3 * context


def test_a_step_has_at_most_84_percent_of_the_originals_products():
    """ViT-B at 224 pixels, 30 tokens, without recomputing on either side.

    The original (models/blip_pretrain.py) projects the images anew for each of ITM's three texts
    and for LM; its two momentum encoders run forward alone.
    """
    model = nn.preset("base", vit={"image_size": 224}, remat="none")
    batch, tokens, queue = 4, 30, 57_600
    ours = PretrainingConfig(max_length=tokens, itc=ItcConfig(queue_size=queue))
    image, text = flops.vit(model.vit), flops.text(model.med, tokens).forward
    read = flops.text(model.med, tokens, model.vit.tokens).forward
    read += flops.image_context(model).forward
    words, heads = flops.lm_head(model.med, tokens).forward, flops.heads(model).forward
    keys = 2 * 3 * 2 * model.embed_dim * (batch + queue)
    original = 4 * (image.forward + text + heads) - image.outside_layers + 3 * (4 * read + words)
    original += keys
    assert 0.83 < ours.make(model, TokenIds()).flops(batch) / (batch * original) < 0.84


def test_steps_of_questions_and_of_pairs_by_hand():
    config, pixels = tiny.config(med={"sharing": "none"}), 24_576
    vqa = VqaConfig(max_length=7, max_answer_length=6, max_answers=2).make(config, TokenIds())
    # Of 6 tokens that attend to 7: layers, then their own attention, then the cross-attention's.
    layers = 2 * (2 * 6 * 16 * (48 + 16) + 2 * 2 * 6 * 16 * 32 + 2 * 2 * 6 * 16 * 16)
    answer = layers + 2 * (2 * 2 * 6 * 6 * 16) + 2 * (2 * 2 * 6 * 7 * 16) + 2 * 6 * 16 * (16 + 32)
    states = 2 * 2 * (2 * 7 * 16 * 16)
    question = 3 * (89_216 + 10_240 + 82_432 + states + 2 * answer) - pixels
    assert vqa.flops(4) == 4 * question
    nlvr = NlvrConfig(max_length=7).make(tiny.config(), TokenIds())
    second = 2 * (2 * 2 * 7 * 16 * 16 + 2 * 7 * 32 * 16 + 2 * 2 * 7 * 5 * 16)
    head, means = 2 * 16 * 16 + 2 * 16 * 2, 2 * (2 * 7 * 32 * 16)  # means have no gradient
    statement = 3 * (2 * 89_216 + 2 * 10_240 + 82_432 + second + head) - 2 * pixels - means
    assert nlvr.flops(4) == 4 * statement


def test_capfilt_by_hand():
    config = tiny.config()
    image = 89_216 + 10_240
    # 2 tokens of prompt and 3 turns; a token's layers and head, with 6 places in the cache.
    layers = 2 * (2 * 16 * (48 + 16) + 2 * 2 * 16 * 32 + 2 * 2 * 16 * 16 + 2 * 2 * 5 * 16)
    token = layers + 2 * (2 * 2 * 6 * 16) + 2 * 16 * (16 + 32)
    assert flops.captioning(config, prompt=2, length=6) == image + 5 * token
    assert flops.captioning(config, prompt=2, length=6, captions=2) == image + 8 * token
    texts = 2 * (82_432 + 63_616 + 2 * 16 * 8 + 2 * 16 * 2)
    assert flops.matching(config, 7, texts=2) == image + texts + 2 * 16 * 8


# Traced steps


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
