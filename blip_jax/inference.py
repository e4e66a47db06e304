"""What a trained model does, mapped over this host's devices: write captions, score, embed.

Mapped by `jax.pmap` and not sharded: nothing here ever waits for another host.

D local devices, b images a device, S pixels a side, G texts an image, T tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from blip_jax import models
from blip_jax.data.images import normalize
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.decoding import Generated, Sampling, generate
from blip_jax.errors import UserError
from blip_jax.models import Blip, BlipConfig, init_cache
from blip_jax.train.checkpoint import load_params


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model that can be used: parameters and what they mean.

    Attributes:
      params: nested dict of arrays.
      config: of the network.
      tokenizer: the one it was trained with.
      prompt: text that its captions begin with; "" for none.
      max_length: tokens of its training texts.
    """

    params: dict[str, Any]
    config: BlipConfig
    tokenizer: Tokenizer
    prompt: str
    max_length: int

    @classmethod
    def load(cls, workdir: str) -> "Trained":
        """The newest checkpoint of a training's workdir, with the tokenizer beside it."""
        params, meta = load_params(workdir)
        tokenizer = Tokenizer.load(str(epath.Path(workdir) / "tokenizer"))
        config = models.from_dict(meta.model)
        return cls(params, config, tokenizer, meta.prompt, meta.max_length)

    @property
    def image_size(self) -> int:
        return self.config.vit.image_size


def replicate(tree: Any) -> Any:
    """A copy on each local device, under a leading axis of D."""
    devices = jnp.arange(jax.local_device_count())
    return jax.pmap(lambda _, x: x, in_axes=(0, None))(devices, tree)


def split(x: np.ndarray) -> np.ndarray:
    """[D * b, ...] -> [D, b, ...]."""
    return x.reshape(jax.local_device_count(), -1, *x.shape[1:])


def captioner(model: Trained, sampling: Sampling) -> Callable[[np.ndarray, jax.Array], Generated]:
    """A function of images uint8 [D * b, S, S, 3] and PRNG keys [D * b] to captions of them all.

    Each begins with the `prompt_of(model)`.

    Raises:
      UserError: `sampling.max_length` has no room behind the prompt, or the model has no
        positions for it.
    """
    blip, special = Blip(model.config), (model.tokenizer.sep, model.tokenizer.pad)
    prompt, positions = jnp.asarray(prompt_of(model)), model.config.med.max_length
    if not len(prompt) < sampling.max_length <= positions:
        raise UserError(
            f"max_length of captions is {sampling.max_length}; it must be above the prompt's "
            f"{len(prompt)} tokens and at most the model's {positions}"
        )

    def write(params, images, keys):
        apply = _applied(blip, params)
        context = apply("context", apply("encode_image", normalize(images)), "decoder")
        batch = images.shape[0]

        def step(ids, cache, index):
            return apply("decode_step", ids, context, cache, index)

        cache = init_cache(model.config, batch, sampling.max_length)
        prompts = jnp.broadcast_to(prompt, (batch, len(prompt)))
        return generate(step, cache, prompts, keys, sampling, special)

    return _mapped(write, model.params)


def prompt_of(model: Trained) -> np.ndarray:
    """int32 [P]: [DEC], then the tokens of the model's prompt."""
    return model.tokenizer.prompt(model.prompt)


def example_keys(seed: int, hashes: np.ndarray, number: int = 0) -> jax.Array:
    """PRNG keys [B], each following from the example's own hash alone, for its caption `number`."""
    base = jax.random.fold_in(jax.random.key(seed), number)
    return jax.vmap(lambda h: jax.random.fold_in(base, h))(hashes)


def matcher(model: Trained) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function that scores G texts an image.

    It takes images uint8 [D * b, S, S, 3], ids int32 [D * b, G, T] and mask bool [D * b, G, T],
    and gives ITM logits float32 [D * b, G, 2] (no match, match) and the cosine of the aligned
    features, float32 [D * b, G].
    """
    blip = Blip(model.config)

    def score(params, images, ids, mask):
        apply = _applied(blip, params)
        tokens = apply("encode_image", normalize(images))
        batch, count, length = ids.shape
        flat = ids.reshape(-1, length), mask.reshape(-1, length)
        logits = apply("itm_logits", *flat, apply("context", tokens, "encoder"))
        text = apply("text_features", *flat).reshape(batch, count, -1)
        image = apply("image_features", tokens)
        return logits.reshape(batch, count, 2), jnp.einsum("be,bge->bg", image, text)

    return _mapped(score, model.params)


def image_encoder(model: Trained) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of images uint8 [D * b, S, S, 3] to (image tokens, aligned features)."""
    blip = Blip(model.config)

    def encode(params, images):
        apply = _applied(blip, params)
        tokens = apply("encode_image", normalize(images))
        return tokens, apply("image_features", tokens)

    return _mapped(encode, model.params)


def text_encoder(model: Trained) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of ids int32 [D * b, T] and mask bool [D * b, T] to aligned features."""
    blip = Blip(model.config)
    encode = lambda params, ids, mask: _applied(blip, params)("text_features", ids, mask)  # noqa: E731
    return _mapped(encode, model.params)


def pair_matcher(model: Trained) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """A function of image tokens [D * b, N, W], ids and mask [D * b, T] to ITM logits [D * b, 2].

    For many texts an image whose tokens are there already, as in re-ranking.
    """
    blip = Blip(model.config)

    def score(params, tokens, ids, mask):
        apply = _applied(blip, params)
        return apply("itm_logits", ids, mask, apply("context", tokens, "encoder"))

    return _mapped(score, model.params)


def _applied(blip: Blip, params: Any) -> Callable:
    return lambda method, *args: blip.apply({"params": params}, *args, method=method)


def _mapped(function: Callable, params: Any) -> Callable:
    """`function` by `jax.pmap`; its parameters go to the devices once, here."""
    params = replicate(params)
    mapped = jax.pmap(function)

    def call(*arrays):
        results = jax.device_get(mapped(params, *(split(x) for x in arrays)))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

    return call
