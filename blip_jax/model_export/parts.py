"""The parts of a model that are exported, each as a program of its own.

B rows ("batch"), T tokens of a text ("tokens"), C positions of the cache ("length"), S pixels a
side, N image tokens, W their width, E embedding, L layers, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from blip_jax import nn
from blip_jax.checkpoints import Checkpoint
from blip_jax.data.images import normalize
from blip_jax.models.pmapped import method_caller
from blip_jax.nn.attention import CrossAttentionContext, KVCache
from blip_jax.nn.fused_attention import plain_attention
from blip_jax.runtime.errors import UserError

EXPORTED = ("encode", "match", "caption", "answer")  # capabilities that are exported


@dataclasses.dataclass(frozen=True)
class Array:
    """An input or output of a part.

    Attributes:
      dtype: of NumPy.
      shape: sizes; the names "batch", "tokens" and "length" stand for any size.
    """

    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A function of a model that becomes one program.

    Attributes:
      function: called as function(apply, *inputs), where `apply` calls a method of the network;
        returns a tuple of arrays, one for each of `outputs`.
      inputs: by name, in order.
      outputs: names.
    """

    function: Callable
    inputs: dict[str, Array]
    outputs: tuple[str, ...]


def parts_of(checkpoint: Checkpoint) -> dict[str, Part]:
    """Returns the parts of a model by name.

    Raises:
      UserError: the model type has none.
    """
    config = checkpoint.config
    able = nn.MODEL_TYPES[checkpoint.model_type].capabilities
    if not set(EXPORTED) & set(able):
        types = [name for name, x in nn.MODEL_TYPES.items() if set(EXPORTED) & set(x.capabilities)]
        raise UserError(
            f"a {checkpoint.model_type} model is not exported; convert a {' or '.join(types)} model"
        )
    tokens = Array("float32", ("batch", config.vit.tokens, config.vit.width))
    text = {
        "ids": Array("int32", ("batch", "tokens")),
        "mask": Array("bool", ("batch", "tokens")),
    }
    found = {"image_encoder": _image_encoder(config, "encode" in able)}
    if "encode" in able:
        found["text_encoder"] = Part(_text_features, text, ("text_features",))
    if "match" in able:
        found["matcher"] = Part(_itm_logits, {"image_tokens": tokens, **text}, ("logits",))
    context = ("context_key", "context_value")
    if "caption" in able:
        found["decoder_context"] = Part(_image_context, {"image_tokens": tokens}, context)
        found["decoder_step"] = _decoder_step(config, config.vit.tokens, masked=False)
    if "answer" in able:
        found["decoder_context"] = Part(
            _question_context, {"image_tokens": tokens, **text}, context
        )
        masked = "unmasked_question" not in config.quirks
        found["decoder_step"] = _decoder_step(config, "tokens", masked)
    return found


def _image_encoder(config: nn.BlipConfig, aligned: bool) -> Part:
    def encode(apply, images):
        tokens = apply("encode_image", normalize(images))
        return (tokens, apply("image_features", tokens)) if aligned else (tokens,)

    size = config.vit.image_size
    outputs = ("image_tokens", "image_features") if aligned else ("image_tokens",)
    return Part(encode, {"images": Array("uint8", ("batch", size, size, 3))}, outputs)


def _text_features(apply, ids, mask):
    return (apply("text_features", ids, mask),)


def _itm_logits(apply, tokens, ids, mask):
    return (apply("itm_logits", ids, mask, apply("image_context", tokens, "encoder")),)


def _image_context(apply, tokens):
    context = apply("image_context", tokens, "decoder")
    return context.key, context.value


def _question_context(apply, tokens, ids, mask):
    states = apply("question_hidden_states", tokens, ids, mask)
    context = apply("question_context", states, mask)
    return context.key, context.value


def _decoder_step(config: nn.BlipConfig, context_tokens: int | str, masked: bool) -> Part:
    """Returns the part that maps the newest token of each text to the logits of the next one.

    Args:
      context_tokens: number of tokens that texts read.
      masked: it takes a mask of them.
    """
    med = config.med
    heads = (med.heads, med.width // med.heads)
    key = Array("float32", (med.depth, "batch", *heads, context_tokens))
    value = Array("float32", (med.depth, "batch", heads[0], context_tokens, heads[1]))
    cache = Array("float32", (med.depth, "batch", "length", *heads))
    inputs = {
        "ids": Array("int32", ("batch", 1)),
        "index": Array("int32", ()),
        "context_key": key,
        "context_value": value,
        "cache_key": cache,
        "cache_value": cache,
    }
    if masked:
        inputs["context_mask"] = Array("bool", ("batch", context_tokens))

    def step(apply, ids, index, context_key, context_value, cache_key, cache_value, mask=None):
        contexts = CrossAttentionContext(context_key, context_value, mask).separate()
        cache = tuple(KVCache(*pair) for pair in zip(cache_key, cache_value, strict=True))
        logits, cache = apply("decode_step", ids, contexts, cache, index)
        keys, values = zip(*cache, strict=True)
        return logits[:, -1], jnp.stack(keys), jnp.stack(values)

    return Part(step, inputs, ("logits", "next_cache_key", "next_cache_value"))


def program(checkpoint: Checkpoint, part: Part) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns the function of (parameters, *inputs) that a part computes, in float32.

    It uses no kernels, so that it can be traced on one machine and run on any other.
    """
    network = nn.network(
        dataclasses.replace(checkpoint.config, dtype="float32", remat="none"), checkpoint.model_type
    )

    def run(params: dict[str, Any], *inputs: jax.Array) -> tuple[jax.Array, ...]:
        with plain_attention():
            return part.function(method_caller(network, params), *inputs)

    return run


def symbolic_inputs(checkpoint: Checkpoint, part: Part) -> list[jax.ShapeDtypeStruct]:
    """Returns the inputs of a part with symbolic sizes, within the model's positions."""
    symbols = {size for array in part.inputs.values() for size in array.shape}
    positions = checkpoint.config.med.max_length
    bounded = [name for name in ("tokens", "length") if name in symbols]
    scope = jax.export.SymbolicScope([f"{name} <= {positions}" for name in bounded])
    return [
        jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(", ".join(map(str, array.shape)), scope=scope), array.dtype
        )
        for array in part.inputs.values()
    ]
