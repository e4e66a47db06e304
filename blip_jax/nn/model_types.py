"""The types of model that checkpoints hold, and fresh parameters of each.

A model type is a network and the parameters of it that a checkpoint holds: a captioner has no ITM
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
from blip_jax.runtime.arguments import check_arguments
from blip_jax.runtime.errors import UserError

LOGIT_SCALE = 2.6592  # as in Hugging Face's BlipConfig: log(1 / 0.07)


@dataclasses.dataclass(frozen=True)
class ModelType:
    """A network, which of its parameters a checkpoint holds, and what the model can do.

    Attributes:
      network: the Flax module.
      init_path: called as init_path(network, images [1, S, S, 3], ids [1, T], mask [1, T]); flax
        creates the parameters that it uses, so it must use all of this model type.
      extra_params: scalar parameters outside the network, (name, initial value): "temperature" is
        the learned divisor of ITC's similarities.
      capabilities: the methods of `models.Model` that it supports: "caption", "match", "answer",
        "verify", "rank_dialog", "encode" (`encode_image`, `encode_text`), "hidden_states",
        "gradcam".
      max_length: tokens of a text in the original's training.
      prompt: what the captions of the original's checkpoints begin with.
    """

    network: type[nn.Module]
    init_path: Callable
    extra_params: tuple[tuple[str, float], ...] = ()
    capabilities: tuple[str, ...] = ()
    max_length: int = 35
    prompt: str = ""


def _captioner(blip: Blip, images, ids, mask):
    return blip.lm_logits(ids, mask, blip.image_context(blip.encode_image(images), "decoder"))


def _features(blip: Blip, images, ids, mask):
    return blip.encode_text_with_image(
        ids, mask, blip.image_context(blip.encode_image(images), "encoder")
    )


def _dialog(blip: Blip, images, ids, mask):
    return blip.itm_logits(ids, mask, blip.image_context(blip.encode_image(images), "encoder"))


def _retrieval(blip: Blip, images, ids, mask):
    tokens = blip.encode_image(images)
    matched = blip.itm_logits(ids, mask, blip.image_context(tokens, "encoder"))
    return matched, blip.image_features(tokens), blip.text_features(ids, mask)


def _pretrain(blip: Blip, *inputs):
    return _retrieval(blip, *inputs), _captioner(blip, *inputs)


def _vqa(vqa: Vqa, images, ids, mask):
    states = vqa.question_hidden_states(vqa.encode_image(images), ids, mask)
    return vqa.lm_logits(ids, mask, vqa.question_context(states, mask))


def _nlvr(nlvr: Nlvr, images, ids, mask):
    tokens = nlvr.encode_image(images)
    return nlvr.logits(ids, mask, nlvr.image_contexts(tokens, tokens))


def _aligned(aligned: Aligned, images, ids, mask):
    tokens = aligned.encode_image(images)
    features = aligned.image_features(tokens), aligned.text_features(ids, mask)
    return features, aligned.encode_text_with_image(ids, mask, tokens)


_TEMPERATURE = ("temperature", 0.07)
MODEL_TYPES = {
    "pretrain": ModelType(
        Blip,
        _pretrain,
        (_TEMPERATURE,),
        ("caption", "match", "encode", "hidden_states", "gradcam"),
        max_length=30,
    ),
    "captioner": ModelType(
        Blip, _captioner, (), ("caption", "gradcam"), max_length=40, prompt="a picture of "
    ),
    "retrieval": ModelType(
        Blip, _retrieval, (_TEMPERATURE,), ("match", "encode", "hidden_states", "gradcam")
    ),
    "features": ModelType(Blip, _features, (), ("hidden_states",)),
    "vqa": ModelType(Vqa, _vqa, (), ("answer", "gradcam")),
    "nlvr": ModelType(Nlvr, _nlvr, (), ("verify",)),
    "dialog": ModelType(Blip, _dialog, (), ("rank_dialog",)),
    "aligned": ModelType(Aligned, _aligned, (("logit_scale", LOGIT_SCALE),), ("encode",)),
}
_OWN = frozenset(MODEL_TYPES)


def register_model_type(name: str, model_type: ModelType) -> None:
    """Adds a model type to MODEL_TYPES, from a file outside this package.

    Checkpoints hold the name alone, so that the file must be imported before one is loaded.

    Raises:
      UserError: this package has a model type of this name.
    """
    if name in _OWN:
        raise UserError(f"model type {name!r} is blip_jax's own; choose another name")
    MODEL_TYPES[name] = model_type


@check_arguments
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


@check_arguments
def init(config: BlipConfig, key: jax.Array, model_type: str = "pretrain") -> dict:
    """Returns fresh float32 parameters, a nested dict; layers are stacked on a leading axis."""
    size = config.vit.image_size
    inputs = jnp.zeros((1, size, size, 3)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    module, parts = network(config, model_type), MODEL_TYPES[model_type]
    params = module.init(key, *inputs, method=parts.init_path)["params"]
    return params | {name: jnp.float32(value) for name, value in parts.extra_params}


def param_shapes(config: BlipConfig, model_type: str = "pretrain") -> dict:
    """Returns the tree of `init` as `jax.ShapeDtypeStruct`s; nothing is computed."""
    return jax.eval_shape(lambda key: init(config, key, model_type), jax.random.key(0))
