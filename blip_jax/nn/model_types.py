"""The types of model that checkpoints hold, and fresh parameters of each.

A model type is a network and which of its parameters a checkpoint holds: a captioner has no ITM
head, and none is initialised for it.
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
class ModelType:
    """What checkpoints of a model type hold.

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
MODEL_TYPES = {
    "pretrain": ModelType(Blip, _pretrain, _ITC),
    "captioner": ModelType(Blip, _captioner),
    "retrieval": ModelType(Blip, _retrieval, _ITC),
    "features": ModelType(Blip, _features),
    "vqa": ModelType(Vqa, _vqa),
    "nlvr": ModelType(Nlvr, _nlvr),
    "aligned": ModelType(Aligned, _aligned, (("logit_scale", LOGIT_SCALE),)),
}


def network(config: BlipConfig, model_type: str = "pretrain") -> nn.Module:
    """Returns the network of a model type.

    Raises:
      UserError: an unknown model_type, or a configuration that it cannot have.
    """
    if model_type not in MODEL_TYPES:
        raise UserError(f"unknown model type {model_type!r}; known: {', '.join(MODEL_TYPES)}")
    if model_type == "vqa" and config.med.sharing != "none":
        raise UserError(
            f"med.sharing is {config.med.sharing!r}; a VQA model's question encoder and answer "
            'decoder share nothing: make it "none"'
        )
    return MODEL_TYPES[model_type].network(config)


def init(config: BlipConfig, key: jax.Array, model_type: str = "pretrain") -> dict:
    """Fresh float32 parameters, a nested dict; layers are stacked on a leading axis."""
    size = config.vit.image_size
    inputs = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    params = network(config, model_type).init(key, *inputs, method=MODEL_TYPES[model_type].paths)[
        "params"
    ]
    return {
        **params,
        **{name: jnp.float32(value) for name, value in MODEL_TYPES[model_type].scalars},
    }


def param_shapes(config: BlipConfig, model_type: str = "pretrain") -> dict:
    """The tree of `init` as `jax.ShapeDtypeStruct`s; nothing is computed."""
    return jax.eval_shape(lambda key: init(config, key, model_type), jax.random.key(0))
