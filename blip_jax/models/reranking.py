"""ITM scores of many texts for each image: an image is encoded and projected once, on its device.

D local devices, b images a device, r rows of a step, each of one image with G texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import nn
from blip_jax.data.images import normalize
from blip_jax.models.image_tokens import image_tokens
from blip_jax.models.pmapped import PmappedFunction

if TYPE_CHECKING:
    from blip_jax.models.model import Model


def context_bytes(config: nn.BlipConfig, num_images: int = 1) -> int:
    """Returns the bytes of the keys and values of images in all layers of cross-attention."""
    med = config.med
    tokens = num_images * config.vit.tokens
    return 2 * med.depth * tokens * med.width * jnp.dtype(config.dtype).itemsize


def image_context_function(model: Model) -> Callable[[np.ndarray], Any]:
    """Returns a function of images uint8 [D * b, S, S, 3], or of clips, to their keys and values.

    These stay on the devices, b images on each, for `context_match_function`.
    """

    def project(apply, images):
        return apply("image_context", image_tokens(apply, normalize(images)), "encoder")

    return PmappedFunction(project, model, "image_context").dispatch


def context_match_function(model: Model) -> Callable[..., jax.Array]:
    """Returns a function of contexts and texts to ITM's match logits float32 [D, r * G].

    It takes the contexts of `image_context_function`, the place of each row's image among the b of
    its device, int32 [D, r], ids int32 [D, r, G, T] and mask bool [D, r, G, T]. The result is on
    the devices; nothing waits for it.
    """

    def score(apply, context, places, ids, mask):
        # Arrays of a context are stacked over the layers: [L, b, ...].
        of_rows = jax.tree.map(lambda x: x[:, places], context)
        length = ids.shape[-1]
        logits = apply("itm_logits", ids.reshape(-1, length), mask.reshape(-1, length), of_rows)
        return logits[:, 1]

    function = PmappedFunction(score, model, "context_match", takes_shared=True, shared_axis=0)

    def match(contexts: Any, places: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> jax.Array:
        rows = (x.reshape(-1, *x.shape[2:]) for x in (places, ids, mask))
        return function.dispatch(*rows, shared=contexts)

    return match
