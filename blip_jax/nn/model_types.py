"""The kinds of model that checkpoints hold, and fresh parameters of each.

A kind is a network and what of it there is: a captioner has no ITM head, and none is made up.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from blip_jax.nn.aligned import Aligned
from blip_jax.nn.blip import Blip
from blip_jax.nn.configs import BlipConfig
from blip_jax.nn.nlvr import Nlvr
from blip_jax.nn.vqa import Vqa
from blip_jax.runtime.errors import UserError

LOGIT_SCALE = 2.6592  # of Hugging Face's BlipConfig: log(1 / 0.07)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a kind's checkpoints hold.

    Attributes:
      network: its module.
      paths: takes (network, images [1, S, S, 3], ids [1, T], mask [1, T]) through all that it has;
        flax makes the parameters that a path meets.
      scalars: parameters beside the network's own, with their value at the start: "temperature",
        the learned divisor of ITC's similarities.
    """

    network: type[nn.Module]
    paths: Callable
    scalars: tuple[tuple[str, float], ...] = ()


def _captioner(blip: Blip, images, ids, mask):
    return blip.lm_logits(ids, mask, blip.context(blip.encode_image(images), "decoder"))


def _features(blip: Blip, images, ids, mask):
    return blip.ground(ids, mask, blip.context(blip.encode_image(images), "encoder"))


def _retrieval(blip: Blip, images, ids, mask):
    tokens = blip.encode_image(images)
    matched = blip.itm_logits(ids, mask, blip.context(tokens, "encoder"))
    return matched, blip.image_features(tokens), blip.text_features(ids, mask)


def _pretrain(blip: Blip, *inputs):
    return _retrieval(blip, *inputs), _captioner(blip, *inputs)


def _vqa(vqa: Vqa, images, ids, mask):
    states = vqa.question_states(vqa.encode_image(images), ids, mask)
    return vqa.lm_logits(ids, mask, vqa.context(states, mask))


def _nlvr(nlvr: Nlvr, images, ids, mask):
    tokens = nlvr.encode_image(images)
    return nlvr.logits(ids, mask, nlvr.contexts(tokens, tokens))


def _aligned(aligned: Aligned, images, ids, mask):
    tokens = aligned.encode_image(images)
    features = aligned.image_features(tokens), aligned.text_features(ids, mask)
    return features, aligned.ground(ids, mask, tokens)


_ITC = (("temperature", 0.07),)
KINDS = {
    "pretrain": Kind(Blip, _pretrain, _ITC),
    "captioner": Kind(Blip, _captioner),
    "retrieval": Kind(Blip, _retrieval, _ITC),
    "features": Kind(Blip, _features),
    "vqa": Kind(Vqa, _vqa),
    "nlvr": Kind(Nlvr, _nlvr),
    "aligned": Kind(Aligned, _aligned, (("logit_scale", LOGIT_SCALE),)),
}


def network(config: BlipConfig, kind: str = "pretrain") -> nn.Module:
    """The module of a kind.

    Raises:
      UserError: an unknown kind, or a configuration that it cannot have.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of model {kind!r}; known: {', '.join(KINDS)}")
    if kind == "vqa" and config.med.sharing != "none":
        raise UserError(
            f"med.sharing is {config.med.sharing!r}; a VQA model's question encoder and answer "
            'decoder share nothing: make it "none"'
        )
    return KINDS[kind].network(config)


def init(config: BlipConfig, key: jax.Array, kind: str = "pretrain") -> dict:
    """Fresh float32 parameters, a nested dict; layers are stacked on a leading axis."""
    size = config.vit.image_size
    inputs = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    params = network(config, kind).init(key, *inputs, method=KINDS[kind].paths)["params"]
    return {**params, **{name: jnp.float32(value) for name, value in KINDS[kind].scalars}}


def shapes(config: BlipConfig, kind: str = "pretrain") -> dict:
    """The tree of `init` as `jax.ShapeDtypeStruct`s; nothing is computed."""
    return jax.eval_shape(lambda key: init(config, key, kind), jax.random.key(0))
